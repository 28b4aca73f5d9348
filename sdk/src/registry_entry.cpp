// The registry table over RegistryDriver's virtual functions.
#include <gantry/convert.hpp>
#include <gantry/plugin.hpp>

namespace gantry::detail {
namespace {

RegistryDriver &of(gantry_driver *driver) { return *reinterpret_cast<RegistryDriver *>(driver); }

gantry_status handles(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                      int32_t *yes) {
    return guard(call, [&] { *yes = of(driver).handles(Call(call), from_c(*ref)); });
}

gantry_status resolve(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                      const gantry_credential *credential, const gantry_descriptor_sink *sink,
                      const gantry_byte_sink *body) {
    return guard(call, [&] {
        std::string bytes;
        const Descriptor d =
            of(driver).resolve(Call(call), from_c(*ref), from_c(credential), body ? &bytes : nullptr);
        const gantry_descriptor raw = to_c(d);
        check_sink(sink->set(sink->ctx, &raw));
        if (body && !bytes.empty()) check_sink(body->write(body->ctx, bytes.data(), bytes.size()));
    });
}

gantry_status fetch(gantry_driver *driver, const gantry_call *call, const gantry_fetch *what,
                    const gantry_blob_sink *sink) {
    return guard(call, [&] {
        Fetch f;
        f.from = from_c(*what->from);
        f.descriptor = from_c(*what->descriptor);
        f.offset = what->offset;
        f.length = what->length;
        for (uint32_t i = 0; i < what->avoid_count; ++i)
            f.avoid.push_back(text(what->avoid[i]));
        f.credential = from_c(what->credential);
        f.is_manifest = what->is_manifest != 0;
        of(driver).fetch(Call(call), f,
                         [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                             check_sink(sink->write(sink->ctx, endpoint.c_str(), at, data, size));
                         });
    });
}

gantry_status push(gantry_driver *driver, const gantry_call *call, const gantry_push *what,
                   const gantry_blob_source *source) {
    return guard(call, [&] {
        Push p;
        p.to = from_c(*what->to);
        p.descriptor = from_c(*what->descriptor);
        p.credential = from_c(what->credential);
        p.mount_from = text(what->mount_from);
        p.is_manifest = what->is_manifest != 0;
        of(driver).push(Call(call), p, [&](uint64_t at, void *buffer, size_t size) {
            size_t got = 0;
            check_sink(source->read(source->ctx, at, buffer, size, &got));
            return got;
        });
    });
}

gantry_status tags(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                   const gantry_credential *credential, const gantry_string_sink *sink) {
    return guard(call, [&] {
        for (const std::string &tag : of(driver).tags(Call(call), from_c(*ref), from_c(credential)))
            check_sink(sink->add(sink->ctx, tag.c_str()));
    });
}

gantry_status search(gantry_driver *driver, const gantry_call *call, const char *registry, const char *term,
                     uint32_t limit, const gantry_credential *credential, const gantry_search_sink *sink) {
    return guard(call, [&] {
        for (const SearchResult &r :
             of(driver).search(Call(call), text(registry), text(term), limit, from_c(credential))) {
            gantry_search_result raw{};
            raw.struct_size = sizeof raw;
            raw.stars = r.stars;
            raw.name = r.name.c_str();
            raw.description = r.description.c_str();
            raw.official = r.official;
            raw.automated = r.automated;
            check_sink(sink->add(sink->ctx, &raw));
        }
    });
}

void hand_over(const std::vector<EndpointLine> &lines, const gantry_endpoint_line_sink *sink) {
    for (const EndpointLine &line : lines) {
        const gantry_endpoint_line raw = to_c(line);
        check_sink(sink->add(sink->ctx, &raw));
    }
}

gantry_status explain(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                      const gantry_endpoint_line_sink *sink) {
    return guard(call, [&] { hand_over(of(driver).explain(Call(call), from_c(*ref)), sink); });
}

gantry_status login(gantry_driver *driver, const gantry_call *call, const gantry_credential *credential,
                    const gantry_string_sink *token) {
    return guard(call, [&] {
        const std::string text = of(driver).login(Call(call), *from_c(credential));
        if (!text.empty()) check_sink(token->add(token->ctx, text.c_str()));
    });
}

gantry_status referrers(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                        const char *artifact_type, const gantry_credential *credential,
                        const gantry_byte_sink *index) {
    return guard(call, [&] {
        const std::string bytes =
            of(driver).referrers(Call(call), from_c(*ref), text(artifact_type), from_c(credential));
        check_sink(index->write(index->ctx, bytes.data(), bytes.size()));
    });
}

gantry_status status(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_line_sink *sink) {
    return guard(call, [&] { hand_over(of(driver).status(Call(call)), sink); });
}

gantry_status test(gantry_driver *driver, const gantry_call *call, const gantry_reference *ref,
                   const gantry_credential *credential, const gantry_endpoint_line_sink *sink) {
    return guard(call,
                 [&] { hand_over(of(driver).test(Call(call), from_c(*ref), from_c(credential)), sink); });
}

} // namespace

const gantry_registry_v1 kRegistryTable = {sizeof(gantry_registry_v1),
                                           0,
                                           handles,
                                           resolve,
                                           fetch,
                                           push,
                                           tags,
                                           search,
                                           explain,
                                           login,
                                           referrers,
                                           status,
                                           test};

} // namespace gantry::detail
