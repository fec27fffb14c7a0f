"""Tests of the static audit and the migration."""
