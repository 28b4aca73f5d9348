// Directory trees as the storage drivers need them: removed, measured and copied whole. Shared source
// of the storage plugins, which link the SDK only.
#pragma once

#include <gantry/directory.hpp>
#include <gantry/storage.hpp>

#include <functional>
#include <string>
#include <sys/stat.h>

namespace gantry::storage {

using Fd = UniqueFd;
using gantry::each_entry;
using gantry::names_in;
using gantry::open_directory;
using gantry::remove_tree;

/// Tells whether an entry of a tree is a whiteout that hides nothing, and removes it.
using StrayWhiteout = std::function<bool(int dir, const std::string &name, const struct stat &st)>;

/// Allocated bytes and inodes, hard links counted once; the top directory is not counted. `stray` may
/// take entries out on the way.
Usage measure_tree(int dir, const Call &call, const StrayWhiteout &stray = {});
/// Copies the content and the attributes of one directory into another that is empty: reflinks where
/// the file system has them, holes, hard links, owners, modes, times and extended attributes kept.
void copy_tree(int from, int to, const Call &call);
void copy_attributes(int from, int to, const std::string &shown);

} // namespace gantry::storage
