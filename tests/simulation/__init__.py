"""The whole engine, simulated: one seed is one run, and a run is checked against the laws at every step."""
