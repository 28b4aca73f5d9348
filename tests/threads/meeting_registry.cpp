// A registry driver of which every call meets the others inside.
#include "meeting.h"

#include <algorithm>

namespace {

using namespace gantry;

class Registry : public RegistryDriver {
  public:
    explicit Registry(int64_t members) : meeting_(members) {}

    bool handles(const Call &call, const RegistryReference &) override {
        meeting_.attend(call);
        return true;
    }
    Descriptor resolve(const Call &call, const RegistryReference &ref, const std::optional<Credential> &,
                       std::string *body) override {
        meeting_.attend(call);
        if (body) *body = "{}";
        return {"application/json", ref.digest, 2, "here"};
    }
    /// `size` bytes of 'x' in small pieces.
    void fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) override {
        meeting_.attend(call);
        const std::string piece(1000, 'x');
        for (uint64_t at = fetch.offset; at < fetch.descriptor.size; at += piece.size()) {
            sink("here", at, piece.data(), std::min<uint64_t>(piece.size(), fetch.descriptor.size - at));
            call.progress("bytes", at, fetch.descriptor.size);
        }
    }
    std::vector<std::string> tags(const Call &call, const RegistryReference &,
                                  const std::optional<Credential> &) override {
        meeting_.attend(call);
        return {"a", "b"};
    }
    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &) override {
        meeting_.attend(call);
        EndpointLine line;
        line.url = "here";
        line.role = "origin";
        line.state = "ok";
        return {line};
    }
    std::string login(const Call &call, const Credential &) override {
        meeting_.attend(call);
        throw Error(ErrorClass::kPermissionDenied, "log in: never", "try another user");
    }

  private:
    Meeting meeting_;
};

} // namespace

GANTRY_REGISTRY_PLUGIN("meeting", "1", "calls meet inside", kMeetingOptions,
                       [](const gantry::Environment &, const gantry::Config &config, const gantry::Call &) {
                           return std::make_unique<Registry>(config.integer("members"));
                       });
