"""The processes that run functions, and the zygote that forks them. Imports little, so that it starts fast."""
