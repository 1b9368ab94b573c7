"""The engine that trains: torch and transformers, which nothing outside this folder imports."""
