# unet-paper in a container, on a GPU or a CPU; the folder it is started in is what it sees:
#   docker build --tag unet-paper .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/data" unet-paper predict images --weights u373
#   apptainer build unet-paper.sif docker-daemon:unet-paper:latest     then: apptainer run --nv unet-paper.sif predict images
FROM python:3.11-slim
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY unet_paper unet_paper
COPY bundle bundle
RUN pip install --no-cache-dir --constraint constraints.txt ".[onnx,dask]"
# a user without a home: what is compiled or cached goes there
ENV HOME=/tmp
WORKDIR /data
ENTRYPOINT ["unet-paper"]
