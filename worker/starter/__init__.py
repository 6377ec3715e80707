"""The model that ships with the project, and the script that makes it."""
