// A registry in memory with one image of two layers: the upper changes a file and hides another.
#pragma once

#include "core/content/content.h"
#include "tests/integration/layer/trees.h"

#include <gantry/registry.hpp>

#include <map>

namespace gantry::test {

class StillRegistry final : public RegistryDriver {
  public:
    StillRegistry() {
        const std::string base = Tar()
                                     .dir("etc")
                                     .file("etc/file", "first\n")
                                     .file("etc/away", "hidden\n")
                                     .dir("etc/gone")
                                     .file("etc/gone/x")
                                     .symlink("link", "etc/file")
                                     .hard_link("etc/same", "etc/file")
                                     .file("large", std::string(300'000, 'l'))
                                     .done();
        const std::string upper =
            Tar().dir("etc").file("etc/file", "second\n").file("etc/.wh.away", "").done();
        std::string layers, diffs;
        for (const std::string &tar : {base, upper}) {
            const std::string digest = put(tar);
            const char *comma = layers.empty() ? "" : ",";
            layers += comma + descriptor("application/vnd.oci.image.layer.v1.tar", digest, tar.size());
            diffs += comma + ("\"" + digest + "\"");
        }
        const std::string config =
            R"({"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[)" +
            diffs + "]}}";
        manifest_ = R"({"schemaVersion":2,"mediaType":")" + std::string(kManifest) + R"(","config":)" +
                    descriptor("application/vnd.oci.image.config.v1+json", put(config), config.size()) +
                    R"(,"layers":[)" + layers + "]}";
    }
    bool handles(const Call &, const RegistryReference &) override { return true; }
    Descriptor resolve(const Call &, const RegistryReference &, const std::optional<Credential> &,
                       std::string *body) override {
        if (body) *body = manifest_;
        return {kManifest, sha256_of(manifest_), manifest_.size(), "memory"};
    }
    void fetch(const Call &, const Fetch &fetch, const BlobSink &sink) override {
        const std::string &bytes = blobs_.at(fetch.descriptor.digest);
        for (size_t at = fetch.offset; at < bytes.size();) {
            const size_t n = std::min<size_t>(bytes.size() - at, 64 << 10);
            sink("memory", at, bytes.data() + at, n);
            at += n;
        }
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &) override { return {}; }

  private:
    static constexpr const char *kManifest = "application/vnd.oci.image.manifest.v1+json";
    static std::string descriptor(const char *type, const std::string &digest, size_t size) {
        return R"({"mediaType":")" + std::string(type) + R"(","digest":")" + digest + R"(","size":)" +
               std::to_string(size) + "}";
    }
    std::string put(const std::string &bytes) {
        const std::string digest = sha256_of(bytes);
        blobs_[digest] = bytes;
        return digest;
    }
    std::map<std::string, std::string> blobs_;
    std::string manifest_;
};

} // namespace gantry::test
