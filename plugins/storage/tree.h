// Directory trees as the storage drivers need them: removed, measured and copied whole. Shared source
// of the storage plugins, which link the SDK only.
#pragma once

#include <gantry/directory.hpp>
#include <gantry/storage.hpp>

#include <functional>
#include <string>

namespace gantry::storage {

using Fd = UniqueFd;
using gantry::names_in;
using gantry::open_directory;
using gantry::remove_tree;

/// Allocated bytes and inodes, hard links counted once; the top directory is not counted.
Usage measure_tree(int dir, const Call &call);
/// Copies the content and the attributes of one directory into another that is empty: reflinks where
/// the file system has them, holes, hard links, owners, modes, times and extended attributes kept.
void copy_tree(int from, int to, const Call &call);
void copy_attributes(int from, int to, const std::string &shown);

} // namespace gantry::storage
