"""Flover under Ray Serve: engines and ranks that Ray places on nodes."""
