#!/usr/bin/env bash
# Generates with the bundled model on this machine and, from a wheel for AArch64, on Debian's Python for that machine under
# QEMU: tokens and log-probabilities have to be the same.
#
#     tools/aarch64_tokens.sh PYTHON WHEEL     PYTHON: with Flover installed
#     tools/aarch64_tokens.sh PYTHON           only fetches what that needs, and Python's headers
set -euo pipefail
python=$1 wheel=${2-}
root=build/aarch64-python
version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

fetch() {
  rm -rf "$root"
  mkdir -p "$root"/{apt/state/lists/partial,apt/cache/archives/partial,packages,wheels}

  # Debian's packages of the other machine, unpacked beside this one's.
  apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$PWD/$root/apt/state"
    -o Dir::State::status=/dev/null -o Dir::Cache="$PWD/$root/apt/cache" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$root/packages" && "${apt[@]}" download "$version-minimal" "lib$version-minimal" "lib$version-stdlib" "lib$version-dev" libc6 libgcc-s1 \
    libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1)
  for package in "$root"/packages/*.deb; do dpkg-deb -x "$package" "$root"; done

  # What is compiled comes from wheels for that machine, the rest from this machine's.
  "$python" -m pip --quiet install --progress-bar off -c constraints.txt --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_17_aarch64 --platform linux_aarch64 --target "$root/wheels" numpy safetensors tokenizers msgspec
  touch "$root/fetched"
}
[ -n "$wheel" ] && [ -e "$root/fetched" ] || fetch
[ -n "$wheel" ] || exit 0
"$python" -m pip --quiet install --progress-bar off --no-deps --only-binary=:all: --upgrade --platform linux_aarch64 \
  --target "$root/wheels" "$wheel"
pure=$("$python" -c 'import jinja2, pathlib; print(pathlib.Path(jinja2.__file__).parents[1])')

cat > "$root/generate.py" <<'END'
import flover
from flover import LLM, SamplingParams

print(flover.__file__, file=__import__("sys").stderr)
sampling = SamplingParams(temperature=0.8, seed=5, max_tokens=12, logprobs=2)
for output in LLM(num_threads=1).generate(["Once upon a time", "The fox"], sampling):
    print(output.outputs[0].token_ids, output.outputs[0].logprobs)
END
"$python" "$root/generate.py" > "$root/here"
PYTHONPATH="$root/wheels:$pure" qemu-aarch64 -L "$root" "$root/usr/bin/$version" "$root/generate.py" > "$root/there"
[ "$(wc -l < "$root/here")" = 2 ]
diff "$root/here" "$root/there"
echo "AArch64 generates the same tokens and log-probabilities"
