// Says which instruction set is the best of this machine, to a build for this machine alone (CMakeLists.txt).
#include <cstdio>

#include "machine_isa.h"

int main() { std::fputs(flover::machine_instruction_sets().front().c_str(), stdout); }
