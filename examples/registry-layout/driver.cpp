#include "driver.h"

#include <algorithm>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

using gantry::Call;
using gantry::Descriptor;
using gantry::Error;
using gantry::ErrorClass;
using gantry::Json;
using gantry::RegistryReference;
using gantry::UniqueFd;

namespace {

constexpr size_t kMaxDocument = 4 << 20; // what the engine takes as a manifest
constexpr char kOciIndex[] = "application/vnd.oci.image.index.v1+json",
               kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";

/// Below `source` whatever the names and links in `path` say; empty when it is not there.
UniqueFd open_below(const std::string &source, const std::string &path, const std::string &doing) {
    const UniqueFd top(::open(source.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!top && errno == ENOENT) return {};
    if (!top) throw Error::from_errno(errno, doing + ": open " + source);
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY; // a FIFO must not hang the call
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    UniqueFd file(static_cast<int>(::syscall(SYS_openat2, top.get(), path.c_str(), &how, sizeof how)));
    if (!file && (errno == ENOENT || errno == ENOTDIR)) return {};
    if (!file && errno == EXDEV)
        throw Error(ErrorClass::kPermissionDenied, doing + ": " + path + " leads out of " + source,
                    "links in a source must stay within it");
    if (!file) throw Error::from_errno(errno, doing + ": open " + source + "/" + path);
    struct stat st {};
    if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode))
        throw Error(ErrorClass::kDataLoss, doing + ": " + source + "/" + path + " is not a file");
    return file;
}

std::string read_document(const UniqueFd &file, const std::string &doing) {
    std::string out(kMaxDocument + 1, '\0');
    size_t size = 0;
    while (size < out.size()) {
        const ssize_t n = ::pread(file.get(), out.data() + size, out.size() - size, static_cast<off_t>(size));
        if (n < 0) throw Error::from_errno(errno, doing);
        if (n == 0) break;
        size += static_cast<size_t>(n);
    }
    if (size > kMaxDocument) throw Error(ErrorClass::kDataLoss, doing + ": a document of more than 4 MiB");
    out.resize(size);
    return out;
}

std::string blob_path(const std::string &layout, const std::string &digest) {
    const size_t colon = std::min(digest.find(':'), digest.size());
    const std::string algorithm = digest.substr(0, colon),
                      hex = digest.substr(std::min(colon + 1, digest.size()));
    const size_t wanted = algorithm == "sha256" ? 64 : algorithm == "sha512" ? 128 : 0;
    if (wanted == 0 || hex.size() != wanted || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
        throw Error(ErrorClass::kInvalidArgument, "find blob: \"" + digest.substr(0, 80) + "\" is no digest");
    return (layout.empty() ? "" : layout + "/") + "blobs/" + algorithm + "/" + hex;
}

std::string architecture() { // as images spell it
    utsname name{};
    ::uname(&name);
    const std::string machine = name.machine;
    for (const auto &[from, to] : {std::pair{"x86_64", "amd64"},
                                   {"aarch64", "arm64"},
                                   {"i686", "386"},
                                   {"armv7l", "arm"},
                                   {"ppc64le", "ppc64le"},
                                   {"loongarch64", "loong64"}})
        if (machine == from) return to;
    return machine;
}

/// Does this entry of index.json carry the reference's name?
bool names(const Json &entry, const RegistryReference &ref, bool whole_source) {
    const Json &notes = entry["annotations"];
    const std::string full = ref.registry + "/" + ref.repository + ":" + ref.tag;
    const std::string &name = notes["org.opencontainers.image.ref.name"].string();
    const std::string &other = notes["io.containerd.image.name"].string();
    // A bare tag in a layout of many images could be anybody's.
    return name == full || other == full || (!whole_source && name == ref.tag);
}

const Json *choose(const Json &index, const RegistryReference &ref, bool whole_source) {
    const Json *first = nullptr, *mine = nullptr;
    size_t count = 0;
    for (const Json &entry : index["manifests"].items()) {
        if (!names(entry, ref, whole_source)) continue;
        ++count;
        if (!first) first = &entry;
        const Json &platform = entry["platform"];
        if (!mine && platform["os"].string() == "linux" &&
            platform["architecture"].string() == architecture())
            mine = &entry;
    }
    return count > 1 ? mine : first;
}

std::string absolute(const std::string &source) {
    std::string path = source.starts_with("file://") ? source.substr(7) : source;
    while (path.size() > 1 && path.back() == '/')
        path.pop_back();
    if (path.empty() || path[0] != '/')
        throw Error(ErrorClass::kInvalidArgument,
                    "read option sources: \"" + source + "\" is no absolute path or file:///path");
    return path;
}

} // namespace

LayoutDriver::LayoutDriver(std::vector<std::string> sources, std::vector<std::string> registries)
    : sources_(std::move(sources)), registries_(std::move(registries)) {
    for (std::string &source : sources_)
        source = absolute(source);
}

bool LayoutDriver::handles(const Call &, const RegistryReference &ref) {
    return registries_.empty() ||
           std::find(registries_.begin(), registries_.end(), ref.registry) != registries_.end();
}

std::vector<LayoutDriver::Layout> LayoutDriver::layouts(const RegistryReference &ref) const {
    std::vector<Layout> out;
    for (const std::string &source : sources_)
        for (const std::string &path : {ref.registry + "/" + ref.repository, ref.repository, std::string()})
            out.push_back({source, path});
    return out;
}

Descriptor LayoutDriver::resolve(const Call &call, const RegistryReference &ref,
                                 const std::optional<gantry::Credential> &, std::string *body) {
    const std::string shown = ref.repository + (ref.digest.empty() ? ":" + ref.tag : "@" + ref.digest),
                      doing = "resolve " + shown;
    for (const Layout &layout : layouts(ref)) {
        call.check(doing);
        Descriptor found;
        found.endpoint = layout.url();
        if (!ref.digest.empty()) {
            const UniqueFd blob = open_below(layout.source, blob_path(layout.path, ref.digest), doing);
            if (!blob) continue;
            const std::string text = read_document(blob, doing);
            const Json manifest = Json::parse(text, "manifest " + ref.digest);
            found.digest = ref.digest;
            found.size = text.size();
            found.media_type = manifest["mediaType"].string();
            // OCI made the field optional; which of the two it is can be seen.
            if (found.media_type.empty())
                found.media_type = manifest["manifests"].items().empty() ? kOciManifest : kOciIndex;
            if (body) *body = text;
            return found;
        }
        const UniqueFd file =
            open_below(layout.source, (layout.path.empty() ? "" : layout.path + "/") + "index.json", doing);
        if (!file) continue;
        const Json index = Json::parse(read_document(file, doing), layout.url() + "/index.json");
        const Json *entry = choose(index, ref, layout.path.empty());
        if (!entry) continue;
        found.digest = (*entry)["digest"].string();
        found.size = (*entry)["size"].size();
        found.media_type = (*entry)["mediaType"].string();
        const UniqueFd blob = open_below(layout.source, blob_path(layout.path, found.digest), doing);
        if (!blob)
            throw Error(ErrorClass::kDataLoss,
                        doing + ": " + layout.url() + " names " + found.digest + " and does not have it");
        if (body) *body = read_document(blob, doing);
        return found;
    }
    throw Error(ErrorClass::kNotFound, doing + ": no layout has it for " + architecture(),
                "registry.layout.sources says where layouts are looked for");
}

void LayoutDriver::fetch(const Call &call, const gantry::Fetch &fetch, const gantry::BlobSink &sink) {
    const std::string &digest = fetch.descriptor.digest;
    const std::string doing = "fetch " + digest.substr(0, 80);
    for (const Layout &layout : layouts(fetch.from)) {
        const std::string endpoint = layout.url();
        // Its bytes were wrong before and have not changed.
        if (std::find(fetch.avoid.begin(), fetch.avoid.end(), endpoint) != fetch.avoid.end()) continue;
        const UniqueFd file = open_below(layout.source, blob_path(layout.path, digest), doing);
        if (!file) continue;
        std::vector<char> buffer(1 << 20);
        const uint64_t end = fetch.length == 0 ? UINT64_MAX : fetch.offset + fetch.length;
        for (uint64_t at = fetch.offset; at < end;) {
            call.check(doing);
            const ssize_t n = ::pread(file.get(), buffer.data(), std::min<uint64_t>(buffer.size(), end - at),
                                      static_cast<off_t>(at));
            if (n < 0) throw Error::from_errno(errno, doing);
            if (n == 0) break;
            sink(endpoint, at, buffer.data(), static_cast<size_t>(n));
            at += static_cast<uint64_t>(n);
            call.progress(digest.c_str(), at, fetch.descriptor.size);
        }
        return;
    }
    throw Error(ErrorClass::kNotFound, doing + ": no layout of " + fetch.from.repository + " has it");
}

std::vector<std::string> LayoutDriver::tags(const Call &call, const RegistryReference &ref,
                                            const std::optional<gantry::Credential> &) {
    const std::string doing = "list tags of " + ref.repository,
                      prefix = ref.registry + "/" + ref.repository + ":";
    std::vector<std::string> out;
    for (const Layout &layout : layouts(ref)) {
        call.check(doing);
        const UniqueFd file =
            open_below(layout.source, (layout.path.empty() ? "" : layout.path + "/") + "index.json", doing);
        if (!file) continue;
        const Json index = Json::parse(read_document(file, doing), layout.url() + "/index.json");
        for (const Json &entry : index["manifests"].items())
            for (const char *key : {"org.opencontainers.image.ref.name", "io.containerd.image.name"}) {
                std::string tag = entry["annotations"][key].string();
                if (tag.starts_with(prefix))
                    tag.erase(0, prefix.size());
                else if (layout.path.empty() || tag.find_first_of("/:") != std::string::npos)
                    continue;
                if (!tag.empty() && std::find(out.begin(), out.end(), tag) == out.end()) out.push_back(tag);
            }
    }
    return out;
}

std::vector<gantry::EndpointLine> LayoutDriver::explain(const Call &call, const RegistryReference &ref) {
    std::vector<gantry::EndpointLine> out;
    if (!handles(call, ref)) return out;
    if (sources_.empty()) out.push_back({"none", "origin", "blocked", "[registry.layout] sources is empty"});
    for (const Layout &layout : layouts(ref)) {
        gantry::EndpointLine line;
        line.url = layout.url();
        line.role = "origin";
        line.reason = "[registry.layout] sources";
        const std::string below = (layout.path.empty() ? "" : layout.path + "/") + "index.json";
        try {
            line.state = open_below(layout.source, below, "explain") ? "ok" : "no layout there";
        } catch (const Error &error) {
            line.state = error.message();
        }
        line.can_pull = line.can_resolve = line.state == "ok";
        out.push_back(std::move(line));
    }
    return out;
}
