"""Derives what each kernel should take on an H100 from the compiled code, and what torch.compile and Liger would take.

Nothing is run on a GPU. The sources are compiled for sm_90; registers, shared memory and the width and number of the
loads of the float32 kernels are read from the machine code. Grids, passes and bytes are what the launchers in csrc/cuda
ask for. From these follow occupancy, waves and an expected time, by the model that the page states; and by the same
model the least that the kernels can take which Inductor, asked for a plan, makes of the published formula.
"""
