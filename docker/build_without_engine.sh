#!/usr/bin/env bash
# Build a Dockerfile for real where no container engine can run: buildah in a chroot, on a base made by debootstrap.
# Debian, as root, with buildah and debootstrap installed; needs about 15 GB. Ends with the size and a test run.
#   docker/build_without_engine.sh WORK-FOLDER [DOCKERFILE [options of buildah build]]
# A package index of one's own, CPU-only wheels for example, stays out of the image as a mount of the build:
#   docker/build_without_engine.sh /tmp/build docker/Dockerfile --volume $HOME/pip.conf:/etc/pip.conf:ro
set -euo pipefail
cd "$(dirname "$0")/.."

work=${1:?give a folder to work in}
dockerfile=${2:-docker/Dockerfile}
shift "$(($# < 2 ? $# : 2))"

buildah_here() {
    command=$1
    shift
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

if [ ! -e "$work/base/etc/debian_version" ]; then
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/base"
fi
scratch=$(buildah_here from scratch)
buildah_here add --quiet "$scratch" "$work/base" /
buildah_here commit --quiet --rm "$scratch" voxelfeed-base

buildah_here build --isolation chroot --build-arg BASE_IMAGE=localhost/voxelfeed-base --file "$dockerfile" \
    --tag voxelfeed "$@" .

made=$(buildah_here from voxelfeed)
du -sh "$(buildah_here mount "$made")"
buildah_here run --isolation chroot "$made" -- python -m training.run --help
buildah_here images
echo "to run something in it: buildah --root $work/storage --runroot $work/run --storage-driver vfs" \
    "run --isolation chroot --volume /my/tree:/opt/ml $made -- train"
