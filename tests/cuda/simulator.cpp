// What the tests ask the simulator itself.
#include "../../csrc/common/tensor.h"
#include "simulator.h"

extern "C" __attribute__((visibility("default"))) int64_t simulator_launches() { return simulator::machine().launches; }
