// Judges a plugin file without running any of its code.
#pragma once

#include <gantry/abi.h>

#include <string>

namespace gantry {

struct ElfFacts {
    uint32_t abi_major = 0, abi_minor = 0, kind = 0, entry_size = 0;
};

/// Throws an Error with the verdict. `pin`: sha256 that the file must have, or "".
ElfFacts judge_plugin_file(const std::string &path, const std::string &pin);
/// The ABI part alone, on bytes.
ElfFacts judge_plugin_elf(const unsigned char *data, size_t size, const std::string &path);

/// Judges the entry of a loaded library: magic, version, sizes, name, complete tables.
void judge_plugin_entry(const struct gantry_plugin_entry &entry, const ElfFacts &note,
                        const std::string &path);

/// Name of a kind in files and messages: "storage".
const char *kind_name(gantry_kind kind);
std::string sha256_hex(const unsigned char *data, size_t size);

} // namespace gantry
