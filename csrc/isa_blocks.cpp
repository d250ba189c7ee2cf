// The linears of one instruction set whose weights are in blocks: a file of their own, so that two are compiled at
// once.
#include "linear_block.h"
