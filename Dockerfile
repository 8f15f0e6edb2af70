# docker build -t tspin .                                  CPU
# docker build --build-arg COMPUTE=cuda -t tspin:cuda .    CUDA
# docker run --rm -v "$PWD/runs:/home/tspin/work/runs" tspin loss=tspin seed=1
# docker run --rm --gpus all -v "$PWD/runs:/home/tspin/work/runs" tspin:cuda model=zephyr
# docker run --rm --gpus all --ipc host --entrypoint torchrun -v "$PWD/runs:/home/tspin/work/runs" tspin:cuda \
#   --nproc_per_node=8 /opt/tspin/main.py compute=fsdp2 model=zephyr
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu | cuda. PyPI's torch brings CUDA itself; of the machine it wants the driver alone.
ARG COMPUTE=cpu
ARG EXTRAS=gguf,evals,launchers,remote

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HOME=/home/tspin/work/.cache/huggingface TSPIN_CACHE=/home/tspin/work/.cache/tspin
WORKDIR /opt/tspin

# torch alone and first, as in the README: asked for with the rest it might be another build.
COPY constraints.txt ./
RUN if [ "$COMPUTE" = cpu ]; then \
      pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch; \
    else \
      pip install -c constraints.txt torch; \
    fi

COPY pyproject.toml setup.py README.md LICENSE main.py ./
COPY conf ./conf
COPY sweeps ./sweeps
COPY hydra_plugins ./hydra_plugins
COPY analysis ./analysis
COPY tspin ./tspin
RUN pip install -c constraints.txt -e ".[${EXTRAS}]"

RUN useradd --create-home --uid 1000 tspin && install -d -o tspin /home/tspin/work
USER 1000
WORKDIR /home/tspin/work

# The exec form: a signal reaches Python itself, which saves and leaves (docs/clusters.md).
ENTRYPOINT ["python", "/opt/tspin/main.py"]
