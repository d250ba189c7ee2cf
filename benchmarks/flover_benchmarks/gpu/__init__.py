"""What a step costs on a GPU: the floor that its memory and its arithmetic set."""
