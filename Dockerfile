# The page with its model baked in: no network is needed at run time.
#   docker build -t acip . && docker run --rm -p 7860:7860 acip
# PIP_OPTIONS is handed to pip, for example to choose the index of the CPU build of torch (a much smaller image).
# The digest fixes the image for every architecture. `docker buildx imagetools inspect python:3.11-slim-bookworm` shows a
# newer one, whose fixes of Debian and Python arrive only when tag and digest are changed here.
FROM python:3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

ARG PIP_OPTIONS=""
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    ACIP_CACHE=/home/user/.cache/acip

# The compiler makes the native code of the processor that the image runs on (docs/deployment.md).
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 user
WORKDIR /home/user/app

# Packages change rarely and come first, so that editing the code does not install them again.
COPY requirements.lock requirements-torch.lock requirements-embedded.lock ./
RUN pip install ${PIP_OPTIONS} --require-hashes --no-deps -r requirements.lock && \
    pip install ${PIP_OPTIONS} -c requirements-torch.lock torch && \
    pip install --require-hashes --no-deps -r requirements-embedded.lock

USER user
COPY --chown=user . .
# Converts the model and makes its factors and codes, into the user's cache: the page starts with all of them.
RUN python -m acip_core prepare

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'], timeout=4)"]
CMD ["python", "app.py"]
