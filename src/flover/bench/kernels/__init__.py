"""How fast the kernels are, op by op and shape by shape, beside the limits of the machine and beside torch."""
