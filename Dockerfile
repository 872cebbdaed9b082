# The submission image: ToothFairy3 (Grand Challenge) and STSR (Codabench) from one build.
#
# The default base runs on a T4 (compute capability 7.5) with any CUDA 12 driver. Not torch 2.9: its half-precision 3-D
# convolutions do without cuDNN.
# A tag can be moved; build.sh takes it by the digest that the tag stands for, and says which that is.
ARG BASE_IMAGE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime
# The same with a compiler: only for FUSED=yes, and only while building.
ARG DEVEL_IMAGE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-devel
ARG FUSED=no

# --- The optional fused Mamba-2 kernels: wheels in /wheels, or none. ---
FROM scratch AS fused-no
WORKDIR /wheels

FROM ${DEVEL_IMAGE} AS fused-yes
# FORCE_BUILD: both would rather download a wheel from elsewhere, which nobody has a hash of.
COPY requirements-fused.lock /tmp/
RUN MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
    python -m pip wheel --no-cache-dir --no-build-isolation --no-deps --require-hashes --wheel-dir /wheels \
    -r /tmp/requirements-fused.lock

FROM fused-${FUSED} AS fused

# --- The image. ---
FROM ${BASE_IMAGE}

# Codabench asks for the user `algorithm` with the home /opt/algorithm; Grand Challenge asks for any user but root.
RUN groupadd --system algorithm \
    && useradd --system --no-log-init --gid algorithm --home-dir /opt/algorithm --shell /bin/bash algorithm \
    && mkdir -p /opt/algorithm /opt/app /opt/ml/model /input /output /inputs /outputs \
    && chown algorithm:algorithm /opt/algorithm /output /outputs

# The base brings torch, built for its CUDA, and usually the numpy it was built with: both stay. The other pins are taken
# as they are, file by file with the hash that PyPI states (scripts/lock.sh), and nothing behind them.
COPY requirements.lock /tmp/requirements.lock
RUN kept="none" && if python -c "import numpy" 2>/dev/null; then kept="numpy"; fi \
    && awk -v kept="^$kept==" '/^[a-z]/ {skip = $0 ~ kept} !skip' /tmp/requirements.lock > /tmp/missing.txt \
    && python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
        --disable-pip-version-check -r /tmp/missing.txt \
    && rm /tmp/requirements.lock /tmp/missing.txt
RUN --mount=type=bind,from=fused,source=/wheels,target=/wheels \
    if ls /wheels/*.whl >/dev/null 2>&1; then python -m pip install --no-cache-dir --no-deps --no-index /wheels/*.whl; fi
# Nobody becomes somebody else in here, so no program needs the right to.
RUN find / -xdev -type f -perm /6000 -exec chmod ug-s {} +

WORKDIR /opt/app
# Readable for the user `algorithm`, whatever umask or tool wrote the files. Models change less often than code.
# RESOURCES is another folder when build.sh --model stages one.
ARG RESOURCES=resources
COPY --chmod=755 ${RESOURCES}/ resources/
COPY --chmod=755 umamba2/ umamba2/
COPY --chmod=755 inference.py LICENSE scripts/entrypoint.sh ./
COPY --chmod=755 predict.sh /opt/algorithm/
# What is in the image from elsewhere, and under which licences, for people and for machines.
RUN --mount=type=bind,source=scripts,target=/scripts \
    python /scripts/inventory.py /opt/app --models /opt/app/resources && chmod 644 THIRD_PARTY.txt sbom.cdx.json
# Bytecode now, because the root file system is read-only at run time and start-up counts.
RUN python -m compileall -q umamba2 inference.py

# The libraries start one thread per core of the host: too many for 256 pids on a large one, and numpy's and ITK's have
# next to nothing to do. The fused kernels are compiled when first used, which takes a folder to write to.
ENV PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 \
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=4 \
    TRITON_CACHE_DIR=/tmp/triton

LABEL org.opencontainers.image.title="umamba2" \
      org.opencontainers.image.description="Dental CBCT segmentation with U-Mamba2" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base by name and digest, as build.sh found it.
ARG BASE_NAME=
ARG BASE_DIGEST=
LABEL org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
ARG CHALLENGE=
# exec: one run per batch of cases; invoke: a server that is asked case by case.
ARG API_METHOD=exec
# demo: the models of resources/; own: another one, which test.sh does not hold to the demo models' scores.
ARG MODEL=demo
LABEL org.umamba2.model="${MODEL}"
ENV UMAMBA2_CHALLENGE=${CHALLENGE} \
    UMAMBA2_API=${API_METHOD}
LABEL org.grand-challenge.api-method="${API_METHOD}"

EXPOSE 4743
USER algorithm
ENTRYPOINT ["/bin/sh", "/opt/app/entrypoint.sh"]
