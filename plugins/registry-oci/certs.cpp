// Read at each use, as Docker does: a certificate may be put there while the engine runs.
#include "certs.h"

#include "small_file.h"

#include <algorithm>
#include <filesystem>
#include <vector>

namespace gantry::oci {
namespace {
constexpr size_t kMaxCertificate = 1 << 20;
constexpr size_t kMaxEntries = 64;
} // namespace

void add_host_certs(const std::string &dir, const std::string &host, TlsSettings &tls) {
    if (host.empty() || host.find('/') != std::string::npos || host.starts_with('.')) return;
    std::error_code none;
    std::vector<std::filesystem::path> files;
    for (std::filesystem::directory_iterator it(std::filesystem::path(dir) / host, none), end;
         !none && it != end && files.size() < kMaxEntries; it.increment(none))
        files.push_back(it->path());
    std::sort(files.begin(), files.end());
    for (const auto &file : files) {
        if (file.extension() == ".crt") tls.ca_pem += read_small_file(file.string(), kMaxCertificate) + "\n";
        if (file.extension() != ".cert" || !tls.client_cert.empty()) continue;
        auto key = file;
        key.replace_extension(".key");
        if (!std::filesystem::exists(key, none)) continue;
        tls.client_cert = file.string();
        tls.client_key = key.string();
    }
}

} // namespace gantry::oci
