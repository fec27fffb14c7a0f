"""Tests on a real cluster of three nodes behind a balancer."""
