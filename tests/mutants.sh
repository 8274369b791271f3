#!/usr/bin/env bash
# Mutation tests of one folder of src: tests/mutants.sh FOLDER [OPTION OF cargo mutants]... (docs/mutants.md).
#
# Thousands of builds of the whole crate would take days. The layers are strict, so a package of the folder, the layers
# it uses and the tests that hold it can stand alone; it is built and tested in seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?a folder: curve, bip352, filter, scan or store}
shift
files="src/$folder/**"
skipped=()
case $folder in
    # What is wiped is seen by a test that needs the layers below as well.
    curve) layers=(curve bip352 scan private_file) tests=(kernel_differential.rs secrets_wiped.rs) ;;
    bip352) layers=(curve bip352 scan private_file) tests=(bip352_vectors.rs bip352_rules secrets_wiped.rs) ;;
    filter) layers=(filter) tests=(filter.rs) ;;
    scan) layers=(curve bip352 scan private_file) tests=(scan.rs secrets_wiped.rs) ;;
    store)
        layers=(block_id curve filter store)
        tests=(store support)
        # Unit tests of columns and bitmap do the same in a twentieth of the time. The others start the program, which the
        # package does not have.
        skipped=(--skip across_chunk_ends --skip a_full_disk_or_a_kill_leaves_the_old_file
            --skip a_copy_for_which_there_is_no_room_takes_none)
        export CARGO_BIN_EXE_spindex=none
        # What the bytes of a file mean; not how they are put there.
        files="src/store/{bitmap,column,digest,meta,record,schema,sums/head,sums/table}.rs"
        ;;
    *) echo "no folder with mutation tests: $folder" >&2 && exit 2 ;;
esac

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
package=$CARGO_TARGET_DIR/mutants/$folder
# The results beside the package stay, so that --iterate can leave out what was caught before. The sources get the time
# of now: cargo must not take what it built of the last mutant for theirs.
rm -rf "${package:?}"/{src,tests,docs,fixtures,Cargo.toml}
mkdir -p "$package"/{src,tests}
ln -s "$PWD"/{docs,fixtures} "$package"
cp Cargo.lock "$package"
for layer in "${layers[@]}"; do
    for source in "src/$layer" "src/$layer.rs"; do
        [ ! -e "$source" ] || cp -r "$source" "$package/src"
    done
    echo "pub mod $layer;"
done >"$package/src/lib.rs"
[[ " ${layers[*]} " != *" block_id "* ]] || echo "pub use block_id::BlockId;" >>"$package/src/lib.rs"
for test in "${tests[@]}"; do
    cp -r "tests/$test" "$package/tests"
done

# The same manifest and the same target folder, so that what the crate depends on is built already; and a version of its
# own, for cargo takes what is built of one name and version for the other.
awk -v version="0.0.0-mutants-$folder" '
    /^\[/ { is_dropped = /bench|bin|example/ }
    /^version = / { $0 = "version = \"" version "\"" }
    !is_dropped && !/^readme/' Cargo.toml >"$package/Cargo.toml"
printf '\n[lib]\nname = "spindex"\ndoctest = false\n' >>"$package/Cargo.toml"

# The unit tests of the other layers have nothing to do with the mutants.
for layer in "${layers[@]}"; do
    [ "$layer" = "$folder" ] || skipped+=(--skip "$layer::")
done

# A mutant may loop and take memory as it goes.
ulimit -v 16000000
exec nice -n "${MUTANTS_NICE:-10}" cargo mutants --config tests/mutants.toml --dir "$package" --in-place --output "$package" \
    --file "$files" --no-shuffle "$@" -- -- "${skipped[@]}"
