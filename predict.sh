#!/bin/sh
# What Codabench runs in the container, as /opt/algorithm/predict.sh: every scan in /inputs, masks to /outputs.
exec python /opt/app/inference.py --challenge stsr --input /inputs --output /outputs "$@"
