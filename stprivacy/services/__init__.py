"""Postgres, an S3 server, MLflow on both, and two Ray nodes, all on loopback: what a team's cluster has, to try and to test with.

Each is a program from local packages. `folder` says where they keep their data, `processes` how one is started and ended, `postgres`
and `programs` what is particular to each, `together` starts, stops and describes them all.
"""
