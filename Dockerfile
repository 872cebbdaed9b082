# The submission image: ToothFairy3 (Grand Challenge) and STSR (Codabench) from one build.
#
# The default base runs on a T4 (compute capability 7.5) with any CUDA 12 driver. Not torch 2.9: its half-precision 3-D
# convolutions do without cuDNN.
ARG BASE_IMAGE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime
FROM ${BASE_IMAGE}

# Codabench asks for the user `algorithm` with the home /opt/algorithm; Grand Challenge asks for any user but root.
RUN groupadd --system algorithm \
    && useradd --system --no-log-init --gid algorithm --home-dir /opt/algorithm --shell /bin/bash algorithm \
    && mkdir -p /opt/algorithm /opt/app /opt/ml/model /input /output /inputs /outputs \
    && chown algorithm:algorithm /opt/algorithm /output /outputs

# The base brings torch, built for its CUDA, and usually the numpy it was built with: both stay. The other pins are taken
# as they are, and nothing behind them.
COPY requirements.txt /tmp/requirements.txt
RUN kept="torch" && if python -c "import numpy" 2>/dev/null; then kept="torch|numpy"; fi \
    && grep -vE "^($kept)==" /tmp/requirements.txt > /tmp/missing.txt \
    && python -m pip install --no-cache-dir --no-deps --disable-pip-version-check -r /tmp/missing.txt \
    && rm /tmp/requirements.txt /tmp/missing.txt

WORKDIR /opt/app
# Models change less often than code. RESOURCES is another folder when build.sh --model stages one.
ARG RESOURCES=resources
COPY ${RESOURCES}/ resources/
COPY umamba2/ umamba2/
COPY inference.py LICENSE ./
COPY scripts/entrypoint.sh predict.sh ./
# Bytecode now, because the root file system is read-only at run time and start-up counts.
RUN cp predict.sh /opt/algorithm/predict.sh \
    && python -m compileall -q umamba2 inference.py

ARG CHALLENGE=
ENV PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    UMAMBA2_CHALLENGE=${CHALLENGE}

# Plain batch runs; the other value is `invoke`.
ARG API_METHOD=exec
LABEL org.opencontainers.image.title="umamba2" \
      org.opencontainers.image.description="Dental CBCT segmentation with U-Mamba2" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.grand-challenge.api-method="${API_METHOD}"

USER algorithm
ENTRYPOINT ["/bin/sh", "/opt/app/entrypoint.sh"]
