// A registry with one fault: one image in memory, "memory.kit/x:y".
#include "faulty.h"

#include <gantry/convert.hpp>

#include <algorithm>
#include <map>
#include <mutex>
#include <poll.h>
#include <stdexcept>

namespace {

using namespace gantry;
using faulty::is;

// Of what the functions below return; the kit checks them.
constexpr char kLayerDigest[] = "sha256:28a9dc409acef9999389dad8cd37769fa326e573d07cb411d73a9c14ce068631",
               kManifestDigest[] = "sha256:7a7f2f8df9f1ab7532bc39d58cba48b2fba5cffad72a054c0dabe4e4f6ca340c",
               kConfigDigest[] = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

std::string layer() { return std::string(300'000, 'l'); }
std::string config() { return "{}"; }
std::string manifest() {
    return std::string("{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",") +
           "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"" +
           kConfigDigest +
           "\",\"size\":2},\"layers\":[{\"mediaType\":\"application/"
           "vnd.oci.image.layer.v1.tar\",\"digest\":\"" +
           kLayerDigest + "\",\"size\":300000}]}";
}

class Memory final : public RegistryDriver {
  public:
    bool handles(const Call &, const RegistryReference &ref) override {
        if (is("slow-handles")) sleep(2);
        return ref.registry == "memory.kit" || ref.registry.starts_with("127.0.0.1:");
    }
    Descriptor resolve(const Call &call, const RegistryReference &ref, const std::optional<Credential> &who,
                       std::string *body) override {
        faulty::at_call();
        if (ref.registry != "memory.kit") return far_away(call, ref, who);
        if (ref.digest.empty() ? ref.tag != "y" : ref.digest != kManifestDigest)
            throw Error(is("wrong-class") ? ErrorClass::kInternal : ErrorClass::kNotFound,
                        "resolve: no such image");
        if (is("race")) {
            static int inside = 0; // of all threads
            const int mine = ++inside;
            usleep(1000);
            if (mine != inside) throw Error(ErrorClass::kInternal, "resolve: somebody came between");
        }
        if (is("leak-in-call") && open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) abort();
        if (body) *body = is("body-differs") ? manifest() + " " : manifest();
        return {"application/vnd.oci.image.manifest.v1+json", kManifestDigest, manifest().size(), "memory"};
    }
    void fetch(const Call &call, const Fetch &what, const BlobSink &sink) override {
        if (what.from.registry != "memory.kit") {
            far_away(call, what.from, what.credential);
            return;
        }
        call.check("fetch");
        std::string bytes;
        if (const auto pushed = find(what.descriptor.digest); !pushed.empty())
            bytes = pushed;
        else if (what.descriptor.digest == kLayerDigest)
            bytes = layer();
        else if (what.descriptor.digest == kManifestDigest)
            bytes = manifest();
        else if (what.descriptor.digest == kConfigDigest)
            bytes = config();
        else
            throw Error(ErrorClass::kNotFound, "fetch: no such blob");
        uint64_t at = is("offset-ignored") ? 0 : what.offset;
        const uint64_t end = what.length == 0 || is("length-ignored")
                                 ? bytes.size()
                                 : std::min<uint64_t>(bytes.size(), at + what.length);
        while (at < end) {
            const size_t n = std::min<uint64_t>(end - at, 100'000);
            try {
                sink("memory", at, bytes.data() + at, n);
            } catch (const std::exception &) {
                if (!is("sink-ignored")) throw;
            }
            at += n;
        }
    }
    void push(const Call &, const Push &what, const BlobSource &source) override {
        if (what.is_manifest) throw Error(ErrorClass::kUnsupported, "push: blobs alone");
        std::string bytes(what.descriptor.size, '\0');
        for (size_t at = 0; at < bytes.size();) {
            const size_t n = source(at, bytes.data() + at, bytes.size() - at);
            if (n == 0) throw Error(ErrorClass::kDataLoss, "push: the source ended early");
            at += n;
        }
        if (is("push-corrupts")) bytes[0] ^= 1;
        const std::lock_guard lock(mutex_);
        pushed_[what.descriptor.digest] = bytes;
    }
    std::vector<std::string> tags(const Call &, const RegistryReference &,
                                  const std::optional<Credential> &) override {
        if (is("tag-forgotten")) return {"x"};
        return {"x", "y"};
    }
    std::vector<EndpointLine> status(const Call &) override {
        if (is("slow-status")) sleep(2);
        return {};
    }
    std::vector<EndpointLine> test(const Call &, const RegistryReference &,
                                   const std::optional<Credential> &) override {
        if (is("test-throws")) throw Error(ErrorClass::kUnavailable, "test: nobody answers");
        return {};
    }
    std::vector<EndpointLine> explain(const Call &, const RegistryReference &ref) override {
        return {{ref.registry, "origin", "ok", "the only one", true, true, false}};
    }

  private:
    std::string find(const std::string &digest) {
        const std::lock_guard lock(mutex_);
        const auto found = pushed_.find(digest);
        return found == pushed_.end() ? "" : found->second;
    }
    /// A server that never answers.
    static Descriptor far_away(const Call &call, const RegistryReference &ref,
                               const std::optional<Credential> &who) {
        if (is("nobody-is-somebody")) return {"text/plain", kManifestDigest, 1, "nobody"};
        const std::string told = is("tells-password") && who ? " with " + who->password : "";
        if (ref.registry.ends_with(":1"))
            throw Error(ErrorClass::kUnavailable, "reach " + ref.registry + told);
        if (is("deaf")) {
            sleep(5);
        } else {
            pollfd cancel{call.cancel_fd(), POLLIN, 0};
            ::poll(&cancel, 1, call.remaining_ms());
            call.check("reach " + ref.registry);
        }
        throw Error(ErrorClass::kUnavailable, "reach " + ref.registry + ": silence");
    }
    std::mutex mutex_;
    std::map<std::string, std::string> pushed_;
};

const gantry_ability kAbilities[] = {{GANTRY_PROBE_1, &faulty::kProbe}};

} // namespace

GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_REGISTRY, gantry::RegistryDriver, gantry::detail::kRegistryTable, kAbilities,
                     1, "faulty", "1", faulty::kText, faulty::kOptions,
                     [](const gantry::Environment &env, const gantry::Config &, const gantry::Call &) {
                         faulty::at_create(env);
                         return std::make_unique<Memory>();
                     });
GANTRY_PLUGIN_PROBE([](const gantry::Environment &, const gantry::Config *, const gantry::Call &) {});
