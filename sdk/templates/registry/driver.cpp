#include "driver.h"

#include <gantry/json.hpp>

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

using gantry::Call;
using gantry::Error;
using gantry::ErrorClass;
using gantry::Json;
using gantry::UniqueFd;

namespace {

constexpr size_t kMaxDocument = 4 << 20;
constexpr char kTag[] = "org.opencontainers.image.ref.name";

std::string read_document(const UniqueFd &file, const std::string &doing) {
    std::string out(kMaxDocument + 1, '\0');
    size_t size = 0;
    for (ssize_t n = 1; n > 0 && size < out.size(); size += static_cast<size_t>(n > 0 ? n : 0)) {
        n = ::pread(file.get(), out.data() + size, out.size() - size, static_cast<off_t>(size));
        if (n < 0) throw Error::from_errno(errno, doing);
    }
    if (size > kMaxDocument) throw Error(ErrorClass::kDataLoss, doing + ": larger than 4 MiB");
    out.resize(size);
    return out;
}

/// "sha256:HEX" as a path below blobs/; what else a digest may hold could lead elsewhere.
std::string blob_path(const std::string &digest) {
    const size_t colon = digest.find(':');
    const std::string algorithm = digest.substr(0, colon),
                      hex = colon == std::string::npos ? "" : digest.substr(colon + 1);
    if ((algorithm != "sha256" || hex.size() != 64) && (algorithm != "sha512" || hex.size() != 128))
        throw Error(ErrorClass::kInvalidArgument, "find blob: " + digest.substr(0, 80) + " is no digest");
    if (hex.find_first_not_of("0123456789abcdef") != std::string::npos)
        throw Error(ErrorClass::kInvalidArgument, "find blob: " + digest.substr(0, 80) + " is no digest");
    return "blobs/" + algorithm + "/" + hex;
}

} // namespace

@CLASS@::@CLASS@(std::string directory, std::string registry)
    : directory_(std::move(directory)), registry_(std::move(registry)) {
    if (directory_.empty() || directory_[0] != '/')
        throw Error(ErrorClass::kInvalidArgument, "read option directory: an absolute path is expected");
}

/// The kernel keeps the walk below the directory: no "..", no symbolic link, no /proc magic leads out.
UniqueFd @CLASS@::open(const std::string &path, const std::string &doing) const {
    const UniqueFd top(::open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!top) throw Error::from_errno(errno, doing + ": open " + directory_);
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    UniqueFd file(static_cast<int>(::syscall(SYS_openat2, top.get(), path.c_str(), &how, sizeof how)));
    struct stat st {};
    if (!file && errno == EXDEV)
        throw Error(ErrorClass::kPermissionDenied, doing + ": " + path + " leads out of " + directory_);
    if (!file) throw Error::from_errno(errno, doing + ": open " + path);
    if (::fstat(file.get(), &st) != 0 || !S_ISREG(st.st_mode))
        throw Error(ErrorClass::kDataLoss, doing + ": " + path + " is not a file");
    return file;
}

bool @CLASS@::handles(const Call &, const gantry::RegistryReference &ref) { return ref.registry == registry_; }

gantry::Descriptor @CLASS@::resolve(const Call &call, const gantry::RegistryReference &ref,
                                    const std::optional<gantry::Credential> &, std::string *body) {
    const std::string doing = "resolve " + ref.repository;
    call.check(doing);
    const Json index = Json::parse(read_document(open(ref.repository + "/index.json", doing), doing), "index");
    for (const Json &entry : index["manifests"].items()) {
        const std::string &digest = entry["digest"].string();
        if (ref.digest.empty() ? entry["annotations"][kTag].string() != ref.tag : digest != ref.digest)
            continue;
        gantry::Descriptor found{entry["mediaType"].string(), digest, entry["size"].size(),
                                 "file://" + directory_};
        if (body) *body = read_document(open(ref.repository + "/" + blob_path(digest), doing), doing);
        return found;
    }
    if (!ref.digest.empty()) { // a manifest that the index does not name, of a platform perhaps
        const std::string text = read_document(open(ref.repository + "/" + blob_path(ref.digest), doing), doing);
        gantry::Descriptor found{Json::parse(text, "manifest")["mediaType"].string(), ref.digest, text.size(),
                                 "file://" + directory_};
        if (found.media_type.empty()) found.media_type = "application/vnd.oci.image.manifest.v1+json";
        if (body) *body = text;
        return found;
    }
    throw Error(ErrorClass::kNotFound, doing + ": the layout has no tag " + ref.tag);
}

void @CLASS@::fetch(const Call &call, const gantry::Fetch &fetch, const gantry::BlobSink &sink) {
    const std::string doing = "fetch " + fetch.descriptor.digest.substr(0, 80);
    const UniqueFd file = open(fetch.from.repository + "/" + blob_path(fetch.descriptor.digest), doing);
    const std::string endpoint = "file://" + directory_;
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
        call.progress(fetch.descriptor.digest.c_str(), at, fetch.descriptor.size);
    }
}

std::vector<std::string> @CLASS@::tags(const Call &, const gantry::RegistryReference &ref,
                                       const std::optional<gantry::Credential> &) {
    const std::string doing = "list tags of " + ref.repository;
    std::vector<std::string> out;
    const Json index = Json::parse(read_document(open(ref.repository + "/index.json", doing), doing), "index");
    for (const Json &entry : index["manifests"].items())
        if (const std::string &tag = entry["annotations"][kTag].string(); !tag.empty()) out.push_back(tag);
    return out;
}

std::vector<gantry::EndpointLine> @CLASS@::explain(const Call &, const gantry::RegistryReference &ref) {
    if (ref.registry != registry_) return {};
    gantry::EndpointLine line;
    line.url = "file://" + directory_ + "/" + ref.repository;
    line.role = "origin";
    line.state = "ok";
    line.reason = "[registry.@NAME@] directory";
    line.can_pull = line.can_resolve = true;
    return {line};
}
