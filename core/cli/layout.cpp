#include "core/cli/layout.h"

#include "core/cli/command.h"
#include "core/cli/transfer_files.h"
#include "core/layer/tar_reader.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

constexpr size_t kMaxDocument = 8 << 20;

bool is_hex(std::string_view text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    });
}

/// "blobs/sha256/<hex>" and nothing else: what the daemon sends is no path of ours until then.
bool is_blob(std::string_view name) {
    for (const std::string_view prefix : {"blobs/sha256/", "blobs/sha512/"})
        if (name.starts_with(prefix)) return is_hex(name.substr(prefix.size()));
    return false;
}

void make_directory(const std::string &path) {
    if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
        throw Error::from_errno(errno, "make directory " + path);
}

std::string read_document(const std::string &path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) {
        if (errno == ENOENT) return {};
        throw Error::from_errno(errno, "open " + path);
    }
    return read_all(file.get(), kMaxDocument, path);
}

std::string label_of(const json::value &entry) {
    return text_at(at(entry, "annotations"), "org.opencontainers.image.ref.name");
}

/// The entries of `fresh`, in the place of older ones of the same name.
std::string merge_indexes(const std::string &old, const std::string &fresh, std::string &digest) {
    boost::system::error_code failed;
    json::value mine = json::parse(fresh, failed);
    if (failed || !mine.is_object() || array_of(at(mine, "manifests")).empty())
        throw Error(ErrorClass::kDataLoss, "read image archive: its index.json is damaged");
    digest = text_at(array_of(at(mine, "manifests"))[0], "digest");
    if (old.empty()) return fresh;
    json::value document = json::parse(old, failed);
    if (failed || !document.is_object() || !at(document, "manifests").is_array())
        throw Error(ErrorClass::kInvalidArgument, "read index.json of the destination: it is no image index");
    json::array kept;
    for (const json::value &entry : array_of(at(document, "manifests"))) {
        bool replaced = false;
        for (const json::value &one : array_of(at(mine, "manifests")))
            replaced =
                replaced || (label_of(one) == label_of(entry) &&
                             (!label_of(one).empty() || text_at(one, "digest") == text_at(entry, "digest")));
        if (!replaced) kept.push_back(entry);
    }
    for (const json::value &one : array_of(at(mine, "manifests")))
        kept.push_back(one);
    document.as_object()["manifests"] = std::move(kept);
    return json::serialize(document);
}

} // namespace

std::vector<std::string> layout_blobs(const std::string &directory) {
    std::vector<std::string> out;
    for (const std::string algorithm : {"sha256", "sha512"}) {
        const std::string folder = directory + "/blobs/" + algorithm;
        const std::unique_ptr<DIR, int (*)(DIR *)> stream(::opendir(folder.c_str()), ::closedir);
        if (!stream) continue;
        while (const dirent *entry = ::readdir(stream.get()))
            if (is_hex(entry->d_name)) out.push_back(algorithm + ":" + entry->d_name);
    }
    return out;
}

std::string receive_layout(HttpConnection &from, const std::string &directory) {
    make_directory(directory);
    make_directory(directory + "/blobs");
    TarReader tar(
        [&](void *buffer, size_t size) { return from.read_some(static_cast<char *>(buffer), size); });
    TarEntry entry;
    std::string index;
    std::vector<char> buffer(256 << 10);
    while (tar.next(entry)) {
        if (entry.name == "index.json" && entry.size <= kMaxDocument) {
            while (const size_t n = tar.read(buffer.data(), buffer.size()))
                index.append(buffer.data(), n);
        } else if (is_blob(entry.name) && S_ISREG(entry.mode)) {
            const std::string path = directory + "/" + entry.name;
            make_directory(path.substr(0, path.rfind('/')));
            struct stat st {};
            if (::lstat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
                static_cast<uint64_t>(st.st_size) == entry.size)
                continue;
            write_whole_file(path, [&](int file) {
                while (const size_t n = tar.read(buffer.data(), buffer.size()))
                    write_all(file, {buffer.data(), n}, path);
            });
        }
    }
    std::string digest;
    const std::string merged = merge_indexes(read_document(directory + "/index.json"), index, digest);
    write_whole_file(directory + "/oci-layout",
                     [&](int file) { write_all(file, R"({"imageLayoutVersion":"1.0.0"})", "oci-layout"); });
    write_whole_file(directory + "/index.json", [&](int file) { write_all(file, merged, "index.json"); });
    return digest;
}

void send_layout(const std::string &directory, const std::function<void(int)> &use) {
    const UniqueFd root(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) throw Error::from_errno(errno, "open " + directory);
    TreeTarOptions options;
    options.xattrs = false;
    pipe_tar(
        options,
        [&](TreeTar &tar) {
            if (!tar.add(root.get(), "index.json", "index.json", true))
                throw Error(ErrorClass::kInvalidArgument,
                            "read " + directory + ": it is no OCI layout (no index.json)");
            tar.add(root.get(), "oci-layout", "oci-layout", true);
            tar.add(root.get(), "blobs", "blobs", true);
        },
        use);
}

} // namespace gantry::cli
