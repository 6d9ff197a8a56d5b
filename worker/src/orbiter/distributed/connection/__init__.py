"""Connections: from a Redis URL to a client, its pools, Sentinel, Cluster, reconnecting and deadlines."""
