# The echo backend of docker-compose.yaml.
FROM python:3.11-slim-bookworm
RUN pip install --no-cache-dir llm-katan==0.22.0
USER 65532:65532
ENV HOME=/tmp
