# vLLM with dynamo-worker, which is a static program and runs in any image:
#
#   docker build --file deploy/Dockerfile --tag dynamo .
#   docker build --file deploy/kubernetes/worker.Dockerfile --tag vllm-with-dynamo-worker .
ARG ENGINE=docker.io/vllm/vllm-openai:latest
ARG PROGRAMS=dynamo
FROM ${PROGRAMS} AS programs

FROM ${ENGINE}
COPY --from=programs /usr/local/bin/dynamo-worker /usr/local/bin/
ENTRYPOINT ["dynamo-worker"]
