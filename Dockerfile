# Two images from one file: `service` serves HTTP and sweeps, without torch; `worker` trains.
# Dependencies are installed before the code is copied: an edit does not install them again.
FROM scratch AS code
COPY pyproject.toml constraints.txt README.md ./
COPY jobs jobs
COPY service service
COPY worker worker
COPY migrations migrations

FROM python:3.12-slim AS base
# bubblewrap: the strongest isolation for users' Python graders, where the host allows namespaces.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HONED_DATA_DIR=/data HF_HOME=/models
# The folders that volumes are mounted on belong to the user that writes them.
RUN useradd --uid 10001 --create-home honed \
    && install --directory --owner=honed --group=honed /data /models
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], sep='\n', file=open('service.txt', 'w')); print(*p['optional-dependencies']['worker'], sep='\n', file=open('worker.txt', 'w'))"
RUN pip install -c constraints.txt -r service.txt

FROM base AS service
COPY --from=code / ./
RUN pip install --no-deps .
USER honed
EXPOSE 8000
CMD ["python", "-m", "service.serve"]

FROM base AS worker
# PyPI's build of PyTorch for Linux brings its own CUDA libraries; the host brings the driver.
RUN pip install -c constraints.txt -r worker.txt
COPY --from=code / ./
RUN pip install --no-deps .
USER honed
# A trainer that is told to stop saves its state first.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
