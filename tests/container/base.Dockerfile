# Stands in for pytorch/pytorch where no registry can be reached: torch for the CPU and its numpy, on plain Debian.
FROM scratch
ADD base.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_BREAK_SYSTEM_PACKAGES=1
RUN --mount=type=bind,source=wheels,target=/wheels \
    python -m pip install --no-cache-dir --find-links /wheels $(cat /wheels/packages.txt)
