// dlopen runs constructors, so everything that can be known without it is looked at first: who may have
// written the file, its digest, that it is a shared object for this machine, and the ABI note. The ELF
// reader trusts no offset: each access is bounded by the file's size.
#include "core/plugin/judgement.h"

#include "core/base/fd.h"
#include "core/config/config.h"

#include <gantry/error.hpp>
#include <gantry/network.h>
#include <gantry/registry.h>
#include <gantry/storage.h>

#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace gantry {
namespace {

constexpr off_t kFileLimit = 512ll << 20;

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
#elif defined(__riscv) && __riscv_xlen == 64
constexpr Elf64_Half kMachine = EM_RISCV;
#else
#error "name this machine's ELF constant"
#endif

Error refused(const std::string &path, const std::string &why, const std::string &hint = {},
              ErrorClass cls = ErrorClass::kFailedPrecondition) {
    return {cls, "load plugin " + path + ": " + why, hint};
}

void judge_owner(const struct stat &st, const std::string &what, const std::string &path) {
    if (st.st_uid != 0 && st.st_uid != ::geteuid())
        throw refused(path, fmt::format("{} belongs to user {}, not to root", what, st.st_uid),
                      "chown root " + path, ErrorClass::kPermissionDenied);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        throw refused(path,
                      fmt::format("{} can be written by others (mode {:04o})", what, st.st_mode & 07777),
                      "chmod go-w it", ErrorClass::kPermissionDenied);
}

class Reader {
  public:
    Reader(const unsigned char *data, size_t size, const std::string &path)
        : data_(data), size_(size), path_(path) {}
    template <typename T> T at(uint64_t offset) const {
        T value;
        std::memcpy(&value, bytes(offset, sizeof value), sizeof value);
        return value;
    }
    const unsigned char *bytes(uint64_t offset, uint64_t count) const {
        if (offset > size_ || count > size_ - offset)
            throw refused(path_, "the file is cut short or malformed");
        return data_ + offset;
    }
    std::string_view name(const Elf64_Shdr &table, uint64_t offset) const {
        if (offset >= table.sh_size) throw refused(path_, "the file is cut short or malformed");
        const auto *start =
            reinterpret_cast<const char *>(bytes(table.sh_offset + offset, table.sh_size - offset));
        return {start, strnlen(start, table.sh_size - offset)};
    }

  private:
    const unsigned char *data_;
    size_t size_;
    const std::string &path_;
};

/// True when all function slots behind {u32 size, u32 reserved} are set.
bool complete(const void *table, size_t released_size) {
    uint32_t size = 0;
    std::memcpy(&size, table, sizeof size);
    if (size < released_size) return false;
    for (size_t at = 8; at + sizeof(void *) <= released_size; at += sizeof(void *)) {
        void *slot = nullptr;
        std::memcpy(&slot, static_cast<const char *>(table) + at, sizeof slot);
        if (!slot) return false;
    }
    return true;
}

bool good_name(const char *name) {
    const size_t size = strnlen(name, 33);
    if (size == 0 || size > 32 || name[0] < 'a' || name[0] > 'z') return false;
    return std::string_view(name, size).find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") ==
           std::string_view::npos;
}

void judge_options(const gantry_option *options, uint32_t count, bool element, int depth,
                   const std::string &path) {
    if (depth > 8 || count > 4096 || (count && !options))
        throw refused(path, "its option schema is malformed");
    for (uint32_t i = 0; i < count; ++i) {
        const gantry_option &o = options[i];
        const bool nested =
            o.type == GANTRY_TYPE_LIST || o.type == GANTRY_TYPE_MAP || o.type == GANTRY_TYPE_TABLE;
        if (o.struct_size != sizeof(gantry_option) || !o.name || !o.doc || (!element && !*o.name) ||
            o.type < GANTRY_TYPE_BOOL || o.type > GANTRY_TYPE_MAP ||
            ((o.type == GANTRY_TYPE_LIST || o.type == GANTRY_TYPE_MAP) && o.child_count != 1))
            throw refused(path, fmt::format("option {} of its schema is malformed", i));
        if (nested) judge_options(o.children, o.child_count, o.type != GANTRY_TYPE_TABLE, depth + 1, path);
    }
}

} // namespace

std::string sha256_hex(const unsigned char *data, size_t size) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    if (EVP_Digest(data, size, digest, &length, EVP_sha256(), nullptr) != 1)
        throw Error(ErrorClass::kInternal, "compute sha256 of a plugin: the crypto library refused");
    std::string out;
    for (unsigned i = 0; i < length; ++i)
        out += fmt::format("{:02x}", digest[i]);
    return out;
}

const char *kind_name(gantry_kind kind) {
    switch (kind) {
    case GANTRY_KIND_STORAGE: return "storage";
    case GANTRY_KIND_NETWORK: return "network";
    case GANTRY_KIND_REGISTRY: return "registry";
    }
    return "unknown";
}

ElfFacts judge_plugin_elf(const unsigned char *data, size_t size, const std::string &path) {
    const Reader file(data, size, path);
    if (size < SELFMAG || std::memcmp(data, ELFMAG, SELFMAG) != 0)
        throw refused(path, "is not an ELF shared object");
    if (size < sizeof(Elf64_Ehdr) || data[EI_CLASS] != ELFCLASS64 || data[EI_DATA] != ELFDATA2LSB)
        throw refused(path, "is not a 64-bit little-endian ELF file");
    const auto header = file.at<Elf64_Ehdr>(0);
    if (header.e_machine != kMachine)
        throw refused(path, fmt::format("is built for another machine (ELF machine {})", header.e_machine));
    if (header.e_type != ET_DYN) throw refused(path, "is an ELF file, but not a shared object");
    if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum == 0 ||
        header.e_shstrndx >= header.e_shnum)
        throw refused(path, "has no section table; strip it with --strip-unneeded at most");
    std::vector<Elf64_Shdr> sections;
    for (unsigned i = 0; i < header.e_shnum; ++i)
        sections.push_back(file.at<Elf64_Shdr>(header.e_shoff + uint64_t(i) * sizeof(Elf64_Shdr)));
    const Elf64_Shdr *note = nullptr, *symbols = nullptr;
    for (const Elf64_Shdr &s : sections) {
        if (s.sh_type == SHT_DYNSYM) symbols = &s;
        if (file.name(sections[header.e_shstrndx], s.sh_name) == GANTRY_NOTE_SECTION) note = &s;
    }
    if (!note)
        throw refused(path, "carries no gantry ABI note, so it is not a gantry plugin",
                      "build it with gantry_add_plugin and a GANTRY_..._PLUGIN macro");
    const auto abi = file.at<gantry_abi_note>(note->sh_offset);
    if (note->sh_size < sizeof abi || abi.name_size != 7 || abi.desc_size < 16 ||
        abi.type != GANTRY_NOTE_TYPE || std::memcmp(abi.name, GANTRY_NOTE_NAME, 7) != 0)
        throw refused(path, "its gantry ABI note is malformed");
    if (abi.abi_major != GANTRY_ABI_MAJOR)
        throw refused(path,
                      fmt::format("is built for plugin ABI {}.{}, this gantry speaks {}.{}", abi.abi_major,
                                  abi.abi_minor, GANTRY_ABI_MAJOR, GANTRY_ABI_MINOR),
                      abi.abi_major > GANTRY_ABI_MAJOR ? "update gantry" : "rebuild the plugin");
    if (abi.abi_minor > GANTRY_ABI_MINOR)
        throw refused(path,
                      fmt::format("needs plugin ABI {}.{}, this gantry speaks {}.{}", abi.abi_major,
                                  abi.abi_minor, GANTRY_ABI_MAJOR, GANTRY_ABI_MINOR),
                      "update gantry");
    if (abi.kind < GANTRY_KIND_STORAGE || abi.kind > GANTRY_KIND_REGISTRY)
        throw refused(path, fmt::format("is of the unknown kind {}", abi.kind));
    if (abi.entry_size < sizeof(struct gantry_plugin_entry))
        throw refused(path, fmt::format("its entry has {} bytes, the ABI needs {}", abi.entry_size,
                                        sizeof(struct gantry_plugin_entry)));
    bool found = false;
    if (symbols && symbols->sh_link < sections.size() && symbols->sh_entsize == sizeof(Elf64_Sym))
        for (uint64_t i = 0; i < symbols->sh_size / sizeof(Elf64_Sym) && !found; ++i) {
            const auto symbol = file.at<Elf64_Sym>(symbols->sh_offset + i * sizeof(Elf64_Sym));
            found = symbol.st_shndx != SHN_UNDEF && ELF64_ST_TYPE(symbol.st_info) == STT_OBJECT &&
                    file.name(sections[symbols->sh_link], symbol.st_name) == GANTRY_PLUGIN_SYMBOL;
        }
    if (!found) throw refused(path, "does not export " GANTRY_PLUGIN_SYMBOL);
    return {abi.abi_major, abi.abi_minor, abi.kind, abi.entry_size};
}

ElfFacts judge_plugin_file(const std::string &path, const std::string &pin) {
    if (path.empty() || path[0] != '/')
        throw Error(ErrorClass::kInvalidArgument, "load plugin " + path + ": the path must be absolute");
    // O_NONBLOCK: a fifo in the directory must not stop the engine.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) throw Error::from_errno(errno, "load plugin " + path);
    struct stat st {};
    if (::fstat(fd.get(), &st) != 0) throw Error::from_errno(errno, "load plugin " + path);
    if (!S_ISREG(st.st_mode)) throw refused(path, "is not a regular file");
    judge_owner(st, "the file", path);
    // The directory of the file itself, not of a link to it: its writers can replace what is loaded.
    const std::string real = std::filesystem::canonical(path).string();
    for (const std::string &file : {path, real}) {
        struct stat dir {};
        const std::string parent = std::filesystem::path(file).parent_path().string();
        if (::stat(parent.c_str(), &dir) != 0) throw Error::from_errno(errno, "load plugin " + path);
        judge_owner(dir, "its directory " + parent, path);
    }
    if (st.st_size > kFileLimit) throw refused(path, "is larger than 512 MiB");
    if (st.st_size == 0) throw refused(path, "is not an ELF shared object (it is empty)");
    const auto size = static_cast<size_t>(st.st_size);
    void *map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (map == MAP_FAILED) throw Error::from_errno(errno, "read plugin " + path);
    struct Unmap {
        void *map;
        size_t size;
        ~Unmap() { ::munmap(map, size); }
    } unmap{map, size};
    const auto *data = static_cast<const unsigned char *>(map);
    if (!pin.empty()) {
        const std::string have = sha256_hex(data, size);
        if (have != pin)
            throw refused(path, "its sha256 is " + have + ", but " + pin + " is pinned",
                          "compare the file with its publisher's, then correct [plugins]",
                          ErrorClass::kPermissionDenied);
    }
    return judge_plugin_elf(data, size, path);
}

void judge_plugin_entry(const struct gantry_plugin_entry &entry, const ElfFacts &note,
                        const std::string &path) {
    if (std::memcmp(entry.magic, GANTRY_PLUGIN_MAGIC, GANTRY_PLUGIN_MAGIC_SIZE) != 0)
        throw refused(path, "its entry does not begin with the magic bytes");
    if (entry.abi_major != note.abi_major || entry.abi_minor != note.abi_minor ||
        static_cast<uint32_t>(entry.kind) != note.kind)
        throw refused(path,
                      fmt::format("its entry (ABI {}.{}, kind {}) contradicts its note (ABI {}.{}, kind {})",
                                  entry.abi_major, entry.abi_minor, static_cast<int>(entry.kind),
                                  note.abi_major, note.abi_minor, note.kind));
    if (entry.struct_size < sizeof entry)
        throw refused(
            path, fmt::format("its entry has {} bytes, the ABI needs {}", entry.struct_size, sizeof entry));
    if (!entry.name || !good_name(entry.name))
        throw refused(path, "its driver name is not [a-z][a-z0-9-]{0,31}");
    if (!entry.version || !entry.description || !entry.homepage)
        throw refused(path, "its version, description or homepage is missing");
    if (!entry.init || !entry.deinit || !entry.create || !entry.destroy)
        throw refused(path, "one of init, deinit, create and destroy is missing");
    if (!entry.table) throw refused(path, "its table is missing");
    judge_options(entry.options, entry.option_count, false, 0, path);
    for (uint32_t i = 0; i < entry.option_count; ++i)
        if (is_hosting_key(entry.options[i].name))
            throw refused(path, fmt::format("its option {} has the name of one that every driver's table has",
                                            entry.options[i].name));
    bool whole = false;
    switch (entry.kind) {
    case GANTRY_KIND_STORAGE: whole = complete(entry.table, sizeof(gantry_storage_v1)); break;
    case GANTRY_KIND_NETWORK: whole = complete(entry.table, sizeof(gantry_network_v1)); break;
    case GANTRY_KIND_REGISTRY: {
        // Four slots may be NULL: a read-only source neither pushes nor lists nor searches.
        const auto *t = static_cast<const gantry_registry_v1 *>(entry.table);
        whole = t->struct_size >= GANTRY_REGISTRY_V1_SIZE_1_0 && t->handles && t->resolve && t->fetch &&
                t->explain;
        break;
    }
    }
    if (!whole)
        throw refused(path,
                      fmt::format("its {} table is half-filled: a slot is NULL or the size is too small",
                                  kind_name(entry.kind)));
    if (entry.ability_count > 64 || (entry.ability_count && !entry.abilities))
        throw refused(path, "its list of abilities is malformed");
    for (uint32_t i = 0; i < entry.ability_count; ++i) {
        const gantry_ability &ability = entry.abilities[i];
        if (!ability.id || !ability.table) throw refused(path, fmt::format("ability {} is malformed", i));
        size_t released = 0;
        if (std::strcmp(ability.id, GANTRY_STORAGE_DIFF_1) == 0) released = sizeof(gantry_storage_diff_1);
        if (std::strcmp(ability.id, GANTRY_PROBE_1) == 0) released = sizeof(gantry_probe_1);
        if (released && !complete(ability.table, released))
            throw refused(path, fmt::format("its ability {} is half-filled", ability.id));
    }
}

} // namespace gantry
