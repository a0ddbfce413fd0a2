"""The engine over HTTP: routes, limits, tokens, metrics; under uvicorn or on Ray Serve."""
