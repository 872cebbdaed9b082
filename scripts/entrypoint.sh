#!/bin/sh
# What the image starts. Grand Challenge passes nothing, people pass options of inference.py, and Codabench passes a
# whole command (/bin/bash -c "sh /opt/algorithm/predict.sh"), which an entry point has to hand on.
case "${1-}" in
    "" | -*) exec python /opt/app/inference.py "$@" ;;
    *) exec "$@" ;;
esac
