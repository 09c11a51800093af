// What the tests ask the simulator itself.
#include "../../csrc/cuda/launch.h"

extern "C" {

__attribute__((visibility("default"))) int64_t simulator_launches() { return simulator::machine().launches; }

__attribute__((visibility("default"))) int64_t simulator_barriers() { return simulator::machine().barriers; }

__attribute__((visibility("default"))) void simulator_has_clusters(bool has) { simulator::machine().clusters = has; }

}  // extern "C"
