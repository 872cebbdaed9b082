#!/bin/sh
# What the image starts. Grand Challenge passes nothing, people pass options, and Codabench passes a whole command
# (/bin/bash -c "sh /opt/algorithm/predict.sh"), which an entry point has to hand on.
case "${1-}" in
    "" | -*) ;;
    *) exec "$@" ;;
esac
if [ "${UMAMBA2_API-}" = invoke ]; then
    exec python -m umamba2.serving "$@"
fi
exec python /opt/app/inference.py "$@"
