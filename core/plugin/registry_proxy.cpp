// RegistryDriver over a loaded plugin's table.
#include "core/plugin/proxy.h"

namespace gantry {
namespace {

constexpr size_t kManifestLimit = 4u << 20;

struct CredentialToC {
    gantry_credential raw{};
    const gantry_credential *pointer = nullptr;
    explicit CredentialToC(const std::optional<Credential> &from) {
        if (!from) return;
        raw = detail::to_c(*from);
        pointer = &raw;
    }
};

class RegistryProxy : public RegistryDriver, private ProxyBase {
  public:
    explicit RegistryProxy(std::shared_ptr<Instance> instance) : ProxyBase(std::move(instance)) {}

    bool handles(const Call &call, const RegistryReference &ref) override {
        const gantry_reference raw = detail::to_c(ref);
        int32_t yes = 0;
        invoke(call, {"ask for registry ", ref.registry},
               [&](auto *c) { return t().handles(driver(), c, &raw, &yes); });
        return yes != 0;
    }

    Descriptor resolve(const Call &call, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override {
        using Into = Collect<RegistryProxy, Descriptor>;
        using Body = Collect<RegistryProxy, std::string *>;
        Into into{this};
        Body bytes{this, body};
        if (body) body->clear();
        auto sink = sink_for<gantry_descriptor_sink>(&into);
        sink.set = [](void *ctx, const gantry_descriptor *raw) {
            return Into::run(ctx, [&](Into &c) {
                if (c.calls > 1) c.self->fail("resolved a reference twice");
                const gantry_descriptor &d = c.self->whole(raw, "descriptor");
                c.out.media_type = c.self->required(d.media_type, "media type", 255);
                c.out.digest = c.self->required(d.digest, "digest", 255);
                c.out.endpoint = c.self->required(d.endpoint, "endpoint", 4096);
                c.out.size = d.size;
                if (d.size > INT64_MAX) c.self->fail("gave an absurd size");
            });
        };
        auto body_sink = sink_for<gantry_byte_sink>(&bytes);
        body_sink.write = [](void *ctx, const void *data, size_t size) {
            return Body::run(ctx, [&](Body &c) {
                if (size > kManifestLimit - c.out->size())
                    throw Error(ErrorClass::kInvalidArgument, "read manifest: larger than 4 MiB");
                if (size && !data) c.self->fail("handed over no data");
                c.out->append(static_cast<const char *>(data), size);
            });
        };
        const gantry_reference raw = detail::to_c(ref);
        const CredentialToC cred(credential);
        invoke(
            call, {"resolve ", ref.repository},
            [&](auto *c) {
                return t().resolve(driver(), c, &raw, cred.pointer, &sink, body ? &body_sink : nullptr);
            },
            &bytes.caught);
        if (into.caught) std::rethrow_exception(into.caught);
        if (into.calls == 0) fail("reported success without resolving " + ref.repository);
        return std::move(into.out);
    }

    void fetch(const Call &call, const Fetch &fetch, const BlobSink &to) override {
        struct State {
            const BlobSink *to;
            uint64_t next, end;
        };
        using Into = Collect<RegistryProxy, State>;
        Into into{this,
                  {&to, fetch.offset,
                   fetch.length && fetch.length <= UINT64_MAX - fetch.offset ? fetch.offset + fetch.length
                                                                             : UINT64_MAX}};
        auto sink = sink_for<gantry_blob_sink>(&into);
        sink.write = [](void *ctx, const char *endpoint, uint64_t at, const void *data, size_t size) {
            return Into::run(ctx, [&](Into &c) {
                if (size == 0) return;
                if (!data) c.self->fail("handed over no data");
                if (at != c.out.next) c.self->fail("skipped or repeated bytes of a blob");
                if (size > c.out.end - at) c.self->fail("handed over more bytes than asked for");
                c.out.next += size;
                (*c.out.to)(detail::text(endpoint, 4096), at, data, size);
            });
        };
        const gantry_reference from = detail::to_c(fetch.from);
        const gantry_descriptor descriptor = detail::to_c(fetch.descriptor);
        const CredentialToC cred(fetch.credential);
        std::vector<const char *> avoid;
        for (const std::string &a : fetch.avoid)
            avoid.push_back(a.c_str());
        gantry_fetch raw{};
        raw.struct_size = sizeof raw;
        raw.avoid_count = static_cast<uint32_t>(avoid.size());
        raw.from = &from;
        raw.descriptor = &descriptor;
        raw.offset = fetch.offset;
        raw.length = fetch.length;
        raw.avoid = avoid.data();
        raw.credential = cred.pointer;
        raw.is_manifest = fetch.is_manifest;
        invoke(
            call, {"fetch ", fetch.descriptor.digest},
            [&](auto *c) { return t().fetch(driver(), c, &raw, &sink); }, &into.caught);
    }

    void push(const Call &call, const Push &push, const BlobSource &from) override {
        if (!t().push) return RegistryDriver::push(call, push, from);
        using Into = Collect<RegistryProxy, const BlobSource *>;
        Into into{this, &from};
        auto source = sink_for<gantry_blob_source>(&into);
        source.read = [](void *ctx, uint64_t at, void *buffer, size_t size, size_t *got) {
            return Into::run(ctx, [&](Into &c) { *got = (*c.out)(at, buffer, size); });
        };
        const gantry_reference to = detail::to_c(push.to);
        const gantry_descriptor descriptor = detail::to_c(push.descriptor);
        const CredentialToC cred(push.credential);
        gantry_push raw{};
        raw.struct_size = sizeof raw;
        raw.is_manifest = push.is_manifest;
        raw.to = &to;
        raw.descriptor = &descriptor;
        raw.credential = cred.pointer;
        raw.mount_from = push.mount_from.c_str();
        invoke(
            call, {"push ", push.descriptor.digest},
            [&](auto *c) { return t().push(driver(), c, &raw, &source); }, &into.caught);
    }

    std::vector<std::string> tags(const Call &call, const RegistryReference &ref,
                                  const std::optional<Credential> &credential) override {
        if (!t().tags) return RegistryDriver::tags(call, ref, credential);
        const gantry_reference raw = detail::to_c(ref);
        const CredentialToC cred(credential);
        return strings(call, {"list tags of ", ref.repository},
                       [&](auto *c, auto *sink) { return t().tags(driver(), c, &raw, cred.pointer, sink); });
    }

    std::vector<SearchResult> search(const Call &call, const std::string &registry, const std::string &term,
                                     uint32_t limit, const std::optional<Credential> &credential) override {
        if (!t().search) return RegistryDriver::search(call, registry, term, limit, credential);
        using Into = Collect<RegistryProxy, std::vector<SearchResult>>;
        Into into{this};
        auto sink = sink_for<gantry_search_sink>(&into);
        sink.add = [](void *ctx, const gantry_search_result *raw) {
            return Into::run(ctx, [&](Into &c) {
                const gantry_search_result &r = c.self->whole(raw, "search result");
                if (c.out.size() >= 10000) c.self->fail("found too much");
                c.out.push_back({c.self->required(r.name, "name", 1024), detail::text(r.description), r.stars,
                                 r.official != 0, r.automated != 0});
            });
        };
        const CredentialToC cred(credential);
        invoke(
            call, {"search ", registry},
            [&](auto *c) {
                return t().search(driver(), c, registry.c_str(), term.c_str(), limit, cred.pointer, &sink);
            },
            &into.caught);
        return std::move(into.out);
    }

    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) override {
        const gantry_reference raw = detail::to_c(ref);
        return lines(call, {"explain ", ref.registry},
                     [&](auto *c, auto *sink) { return t().explain(driver(), c, &raw, sink); });
    }

    std::string referrers(const Call &call, const RegistryReference &ref, const std::string &artifact_type,
                          const std::optional<Credential> &credential) override {
        if (!GANTRY_HAS(&t(), referrers) || !t().referrers)
            return RegistryDriver::referrers(call, ref, artifact_type, credential);
        using Into = Collect<RegistryProxy, std::string>;
        Into into{this};
        auto sink = sink_for<gantry_byte_sink>(&into);
        sink.write = [](void *ctx, const void *data, size_t size) {
            return Into::run(ctx, [&](Into &c) {
                if (size > kManifestLimit - c.out.size())
                    throw Error(ErrorClass::kInvalidArgument, "read referrers: larger than 4 MiB");
                if (size && !data) c.self->fail("handed over no data");
                c.out.append(static_cast<const char *>(data), size);
            });
        };
        const gantry_reference raw = detail::to_c(ref);
        const CredentialToC cred(credential);
        invoke(
            call, {"list referrers of ", ref.repository},
            [&](auto *c) {
                return t().referrers(driver(), c, &raw, artifact_type.c_str(), cred.pointer, &sink);
            },
            &into.caught);
        return std::move(into.out);
    }

    std::vector<EndpointLine> status(const Call &call) override {
        if (!GANTRY_HAS(&t(), status) || !t().status) return RegistryDriver::status(call);
        return lines(call, {"list endpoints", ""},
                     [&](auto *c, auto *sink) { return t().status(driver(), c, sink); });
    }

    std::vector<EndpointLine> test(const Call &call, const RegistryReference &ref,
                                   const std::optional<Credential> &credential) override {
        if (!GANTRY_HAS(&t(), test) || !t().test) return RegistryDriver::test(call, ref, credential);
        const gantry_reference raw = detail::to_c(ref);
        const CredentialToC cred(credential);
        return lines(call, {"test endpoints of ", ref.registry},
                     [&](auto *c, auto *sink) { return t().test(driver(), c, &raw, cred.pointer, sink); });
    }

    std::string login(const Call &call, const Credential &credential) override {
        if (!t().login) return RegistryDriver::login(call, credential);
        const gantry_credential raw = detail::to_c(credential);
        const auto tokens = strings(call, {"log in to ", credential.server},
                                    [&](auto *c, auto *sink) { return t().login(driver(), c, &raw, sink); });
        if (tokens.size() > 1) fail("gave more than one token");
        return tokens.empty() ? "" : tokens[0];
    }

  private:
    template <typename Self, typename Out> friend struct Collect;
    const gantry_registry_v1 &t() const { return table<gantry_registry_v1>(); }

    template <typename F>
    std::vector<EndpointLine> lines(const Call &call, const Doing &doing, F &&work) const {
        using Into = Collect<RegistryProxy, std::vector<EndpointLine>>;
        Into into{this};
        auto sink = sink_for<gantry_endpoint_line_sink>(&into);
        sink.add = [](void *ctx, const gantry_endpoint_line *raw) {
            return Into::run(ctx, [&](Into &c) {
                if (!raw || raw->struct_size < GANTRY_ENDPOINT_LINE_SIZE_1_0)
                    c.self->fail("handed over no whole endpoint line");
                if (c.out.size() >= 10000) c.self->fail("names too many endpoints");
                c.self->required(raw->url, "URL");
                c.out.push_back(detail::from_c(*raw));
            });
        };
        invoke(
            call, doing, [&](auto *c) { return work(c, &sink); }, &into.caught);
        return std::move(into.out);
    }

    template <typename F>
    std::vector<std::string> strings(const Call &call, const Doing &doing, F &&work) const {
        using Into = Collect<RegistryProxy, std::vector<std::string>>;
        Into into{this};
        auto sink = sink_for<gantry_string_sink>(&into);
        sink.add = [](void *ctx, const char *value) {
            return Into::run(ctx, [&](Into &c) {
                if (c.out.size() >= kListLimit) c.self->fail("handed over too many strings");
                c.out.push_back(c.self->required(value, "string"));
            });
        };
        invoke(
            call, doing, [&](auto *c) { return work(c, &sink); }, &into.caught);
        return std::move(into.out);
    }
};

} // namespace

std::shared_ptr<RegistryDriver> make_registry_proxy(std::shared_ptr<Instance> instance) {
    return std::make_shared<RegistryProxy>(std::move(instance));
}

} // namespace gantry
