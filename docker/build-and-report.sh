#!/usr/bin/env bash
# The H100 pipeline in one command; `--help` says more.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: docker/build-and-report.sh MODEL TASK [options]

Build the image, then FP32, FP16, INT8 and FP8 engines of MODEL for this machine's GPU, evaluate
them on TASK, measure their latencies, and leave in DIR

  build/    the build folder; build/report.html is what to read first
  models/   a Triton model repository

MODEL is a hub id, a local folder or "demo"; TASK is what `deploy build --task` takes, by name.

options:
  --out DIR                   where the results go (out/TASK)
  --data-dir DIR              local data instead of the hub's
  --max-drop SHARE            gate: largest relative drop of the main metric, such as 0.01
  --limit N                   evaluate N examples only
  --baseline LIST             measure beside: torch-eager, torch-compile, onnxruntime-cuda
  --text                      the Triton repository takes text: tokenization on the server
  --tensorrt-version VERSION  another release of TensorRT, such as 10.16.1.11
  --pip-conf FILE             pip.conf for the image's build: another index, constraints
  --print                     print the commands, and run none
  -h, --help                  show this text

exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but a gate does not hold
TEXT
}

fail_usage() {
    printf 'error: %s\ntry: docker/build-and-report.sh --help\n' "$1" >&2
    exit 2
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
positional=()
out='' data_dir='' pip_conf='' tensorrt_version='' print=false
build_options=() evaluate_options=() bench_options=() triton_options=()
target=gpu

while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --print) print=true ;;
        --text) triton_options+=(--text) ;;
        --out | --data-dir | --max-drop | --limit | --baseline | --tensorrt-version | --pip-conf)
            (($# > 1)) || fail_usage "$1 takes a value"
            [[ -n $2 && $2 != --* ]] || fail_usage "$1 takes a value, not '$2'"
            case $1 in
                --out) out=$2 ;;
                --data-dir) data_dir=$2 ;;
                --max-drop | --limit)
                    build_options+=("$1" "$2")
                    evaluate_options+=("$1" "$2")
                    ;;
                --baseline)
                    bench_options+=("$1" "$2")
                    target=gpu-torch # torch.compile needs a C compiler
                    ;;
                --tensorrt-version) tensorrt_version=$2 ;;
                --pip-conf) pip_conf=$2 ;;
            esac
            shift
            ;;
        -*) fail_usage "unknown option '$1'" ;;
        *) positional+=("$1") ;;
    esac
    shift
done
((${#positional[@]} == 2)) || fail_usage "MODEL and TASK are needed, and nothing else"
model=${positional[0]} task=${positional[1]}
[[ -n $model && -n $task ]] || fail_usage "MODEL and TASK must not be empty"
[[ $task != */* && $task != *.yaml && $task != *.yml ]] \
    || fail_usage "TASK is a task's name; mount a task file yourself, as docs/docker.md says"
[[ -z $data_dir || -d $data_dir ]] || fail_usage "--data-dir: '$data_dir' is no folder"
[[ -z $pip_conf || -f $pip_conf ]] || fail_usage "--pip-conf: '$pip_conf' is no file"
out=$(realpath -m -- "${out:-out/$task}")
# --mount separates its fields by commas, and has no way to quote one.
for folder in "$out" "$data_dir" "$model"; do
    [[ $folder != *,* ]] || fail_usage "'$folder': Docker mounts no folder with a comma in its name"
done

image=bert-trt-deploy:0.1.0-$target
image_options=(--file "$root/docker/Dockerfile" --target "$target" --tag "$image")
[[ -z $tensorrt_version ]] || image_options+=(--build-arg "TENSORRT_VERSION=$tensorrt_version")
[[ -z $pip_conf ]] || image_options+=(--secret "id=pip_conf,src=$(realpath -- "$pip_conf")")
if revision=$(git -C "$root" rev-parse HEAD 2>/dev/null); then
    image_options+=(--build-arg "REVISION=$revision")
fi

# As the calling user, so that the results are theirs. The hub's token is passed on, not written out.
container=(docker run --rm --init --gpus all --user "$(id -u):$(id -g)" --env HF_TOKEN
    --mount 'type=volume,source=bert-trt-deploy-cache,target=/cache'
    --mount "type=bind,source=$out,target=/workspace")
if [[ -d $model ]]; then
    container+=(--mount "type=bind,source=$(realpath -- "$model"),target=/model,readonly")
    model=/model
fi
if [[ -n $data_dir ]]; then
    container+=(--mount "type=bind,source=$(realpath -- "$data_dir"),target=/data,readonly")
    build_options+=(--data-dir /data)
fi
container+=("$image")

step() {
    if $print; then
        printf '%q ' "$@" | sed 's/ $//'
        echo
    else
        printf '\n==> %s\n' "$*" >&2
        "$@"
    fi
}

# A gate that does not hold is told at the end; the numbers that explain it are wanted all the more.
gate=0
gated_step() {
    local code=0
    step "$@" || code=$?
    case $code in
        0) ;;
        3) gate=3 ;;
        *) exit "$code" ;;
    esac
}

step docker build "${image_options[@]}" "$root"
step mkdir -p "$out"
# With FP32 among them, the reference is an engine too.
gated_step "${container[@]}" build --model "$model" --task "$task" \
    --precision fp32,fp16,int8,fp8 --engine tensorrt --out /workspace/build "${build_options[@]}"
gated_step "${container[@]}" evaluate /workspace/build --backend tensorrt "${evaluate_options[@]}"
step "${container[@]}" bench /workspace/build --backend tensorrt "${bench_options[@]}"
step "${container[@]}" triton /workspace/build --repository /workspace/models "${triton_options[@]}"
$print || printf '\nreport: %s\nTriton repository: %s\n' "$out/build/report.html" "$out/models" >&2
exit "$gate"
