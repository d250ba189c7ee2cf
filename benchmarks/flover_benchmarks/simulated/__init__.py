"""The real engine in simulated time: its scheduler, rows and pages, with a cost model instead of a device."""
