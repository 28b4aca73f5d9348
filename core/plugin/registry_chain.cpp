#include "core/plugin/registry_chain.h"

#include "core/base/log.h"

#include <algorithm>
#include <fmt/format.h>
#include <set>
#include <type_traits>
#include <utility>

namespace gantry {
namespace {

/// May another driver be asked after this? See the header.
bool passes_on(const Error &error) {
    switch (error.error_class()) {
    case ErrorClass::kNotFound:
    case ErrorClass::kUnavailable:
    case ErrorClass::kUnsupported:
    case ErrorClass::kDeadline:
    case ErrorClass::kDataLoss: return true;
    default: return false;
    }
}

/// What the drivers asked so far said.
class Failures {
  public:
    /// Throws when the call ends here. `call` decides whether a deadline was the driver's or the caller's.
    void add(const Call &call, const std::string &driver, const Error &error) {
        if (!passes_on(error)) throw error;
        if (error.error_class() == ErrorClass::kDeadline &&
            (call.cancelled() || (call.deadline_ns() && call.deadline_ns() <= Call::now_ns())))
            throw error;
        if (error.error_class() == ErrorClass::kDataLoss || error.error_class() == ErrorClass::kDeadline)
            log_warn("registry driver {}: {}; the next one is asked", driver, error.message());
        said_.push_back({driver, error});
    }
    bool has(ErrorClass what) const {
        return std::any_of(said_.begin(), said_.end(),
                           [&](const auto &said) { return said.error.error_class() == what; });
    }
    bool empty() const { return said_.empty(); }

    /// One error of all: of several classes the one that a later attempt can mend comes first, and what a
    /// driver cannot do at all counts only when nobody could. `unsupported_first`: except that of a range.
    [[noreturn]] void end(const std::string &doing, bool unsupported_first = false) const {
        if (said_.size() == 1) throw said_[0].error;
        std::vector<ErrorClass> order{ErrorClass::kUnavailable, ErrorClass::kDeadline, ErrorClass::kDataLoss,
                                      ErrorClass::kNotFound, ErrorClass::kUnsupported};
        if (unsupported_first) std::rotate(order.begin(), order.end() - 1, order.end());
        const auto worst = std::find_if(order.begin(), order.end(), [&](ErrorClass c) { return has(c); });
        if (worst == order.end())
            throw Error(ErrorClass::kNotFound, doing + ": no registry driver wants this registry",
                        "registry.drivers in the configuration names those that are asked");
        std::string message = doing, hint;
        const char *gap = ": ";
        for (const auto &[driver, error] : said_) {
            if (error.error_class() == ErrorClass::kUnsupported && *worst != ErrorClass::kUnsupported)
                continue;
            message += fmt::format("{}driver {}: {}", std::exchange(gap, "; "), driver, error.message());
            if (error.error_class() == *worst && !error.hint().empty()) hint = error.hint();
        }
        throw Error(*worst, message, hint);
    }

  private:
    struct Said {
        std::string driver;
        Error error;
    };
    std::vector<Said> said_;
};

std::string shown(const RegistryReference &ref) {
    return ref.registry + "/" + ref.repository +
           (!ref.digest.empty() ? "@" + ref.digest
            : ref.tag.empty()   ? ""
                                : ":" + ref.tag);
}

class RegistryChain : public RegistryDriver {
  public:
    explicit RegistryChain(std::vector<ChainLink> links) : links_(std::move(links)) {}

    bool handles(const Call &call, const RegistryReference &ref) override {
        Failures failures;
        for (const ChainLink &link : links_)
            if (wanted(call, link, ref, failures)) return true;
        return false;
    }

    Descriptor resolve(const Call &call, const RegistryReference &ref,
                       const std::optional<Credential> &credential, std::string *body) override {
        return first(call, ref, "resolve " + shown(ref), [&](RegistryDriver &driver) {
            if (body) body->clear();
            return driver.resolve(call, ref, credential, body);
        });
    }

    void fetch(const Call &call, const Fetch &what, const BlobSink &sink) override;

    void push(const Call &call, const Push &what, const BlobSource &source) override {
        owner(call, what.to, "push to " + shown(what.to),
              [&](RegistryDriver &driver) { driver.push(call, what, source); });
    }

    std::vector<std::string> tags(const Call &call, const RegistryReference &ref,
                                  const std::optional<Credential> &credential) override {
        return united<std::string>(
            call, ref, "list tags of " + shown(ref),
            [&](RegistryDriver &driver) { return driver.tags(call, ref, credential); },
            [](const std::string &tag) { return tag; });
    }

    std::vector<SearchResult> search(const Call &call, const std::string &registry, const std::string &term,
                                     uint32_t limit, const std::optional<Credential> &credential) override {
        auto out = united<SearchResult>(
            call, {registry, "", "", ""}, "search " + registry,
            [&](RegistryDriver &driver) { return driver.search(call, registry, term, limit, credential); },
            [](const SearchResult &result) { return result.name; });
        if (limit && out.size() > limit) out.resize(limit);
        return out;
    }

    std::string login(const Call &call, const Credential &credential) override {
        std::string token;
        owner(call, {credential.server, "", "", ""}, "log in to " + credential.server,
              [&](RegistryDriver &driver) { token = driver.login(call, credential); });
        return token;
    }

    std::vector<EndpointLine> explain(const Call &call, const RegistryReference &ref) override {
        return lines(call, &ref, [&](RegistryDriver &driver) { return driver.explain(call, ref); });
    }

    /// The first with such a list, as it is: lists of several drivers are not made one.
    std::string referrers(const Call &call, const RegistryReference &ref, const std::string &artifact_type,
                          const std::optional<Credential> &credential) override {
        return first(call, ref, "list referrers of " + shown(ref), [&](RegistryDriver &driver) {
            return driver.referrers(call, ref, artifact_type, credential);
        });
    }

    std::vector<EndpointLine> status(const Call &call) override {
        return lines(call, nullptr, [&](RegistryDriver &driver) { return driver.status(call); });
    }

    std::vector<EndpointLine> test(const Call &call, const RegistryReference &ref,
                                   const std::optional<Credential> &credential) override {
        return lines(call, &ref, [&](RegistryDriver &driver) { return driver.test(call, ref, credential); });
    }

  private:
    bool wanted(const Call &call, const ChainLink &link, const RegistryReference &ref,
                Failures &failures) const {
        try {
            return link.driver->handles(call, ref);
        } catch (const Error &error) {
            failures.add(call, link.name, error);
            return false;
        }
    }

    /// The first driver with an answer.
    template <typename F>
    std::invoke_result_t<F, RegistryDriver &> first(const Call &call, const RegistryReference &ref,
                                                    const std::string &doing, F &&ask) const {
        Failures failures;
        for (const ChainLink &link : links_) {
            call.check(doing);
            if (!wanted(call, link, ref, failures)) continue;
            try {
                return ask(*link.driver);
            } catch (const Error &error) {
                failures.add(call, link.name, error);
            }
        }
        failures.end(doing);
    }

    /// The first driver that can do such a thing at all.
    template <typename F>
    void owner(const Call &call, const RegistryReference &ref, const std::string &doing, F &&ask) const {
        Failures failures;
        for (const ChainLink &link : links_) {
            call.check(doing);
            if (!wanted(call, link, ref, failures)) continue;
            try {
                ask(*link.driver);
                return;
            } catch (const Error &error) {
                if (error.error_class() != ErrorClass::kUnsupported) throw;
                failures.add(call, link.name, error);
            }
        }
        failures.end(doing);
    }

    /// What all drivers know, in their order, each name once. One that is out of reach leaves a line in the
    /// log as long as another answers: on a site without a network the registry is always out of reach.
    template <typename T, typename F, typename Name>
    std::vector<T> united(const Call &call, const RegistryReference &ref, const std::string &doing, F &&ask,
                          Name &&name) const {
        std::vector<T> out;
        std::set<std::string> seen;
        Failures failures;
        bool answered = false;
        for (const ChainLink &link : links_) {
            call.check(doing);
            if (!wanted(call, link, ref, failures)) continue;
            try {
                for (T &item : ask(*link.driver))
                    if (seen.insert(name(item)).second) out.push_back(std::move(item));
                answered = true;
            } catch (const Error &error) {
                failures.add(call, link.name, error);
                if (error.error_class() == ErrorClass::kUnavailable)
                    log_warn("registry driver {}: {}", link.name, error.message());
            }
        }
        if (!answered) failures.end(doing);
        return out;
    }

    /// Lines of all drivers; `ref` null: of those that do not want it as well.
    template <typename F>
    std::vector<EndpointLine> lines(const Call &call, const RegistryReference *ref, F &&ask) const {
        std::vector<EndpointLine> out;
        for (const ChainLink &link : links_) {
            std::vector<EndpointLine> more;
            try {
                if (ref && !link.driver->handles(call, *ref)) {
                    EndpointLine line;
                    line.url = line.role = "none";
                    line.state = "passed over";
                    line.reason = "does not want this registry";
                    more.push_back(std::move(line));
                } else {
                    more = ask(*link.driver);
                }
            } catch (const Error &error) {
                call.check("explain");
                if (error.error_class() == ErrorClass::kUnsupported) continue;
                EndpointLine line;
                line.url = line.role = "none";
                line.state = "failed";
                line.reason = error.message();
                more.push_back(std::move(line));
            }
            for (EndpointLine &line : more) {
                line.reason = "driver " + link.name + (line.reason.empty() ? "" : ": " + line.reason);
                out.push_back(std::move(line));
            }
        }
        return out;
    }

    const std::vector<ChainLink> links_;
};

void RegistryChain::fetch(const Call &call, const Fetch &what, const BlobSink &sink) {
    const std::string doing = "fetch " + what.descriptor.digest;
    const uint64_t end = what.length ? what.offset + what.length : what.descriptor.size; // 0: unknown
    const bool range = what.offset > 0 && what.length > 0;
    Fetch rest = what;
    std::exception_ptr refused; // the receiver wants no more: no failure of the driver
    const BlobSink watched = [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
        if (refused) std::rethrow_exception(refused);
        try {
            sink(endpoint, at, data, size);
        } catch (...) {
            refused = std::current_exception();
            throw;
        }
        rest.offset = at + size;
    };
    Failures failures;
    for (const ChainLink &link : links_) {
        call.check(doing);
        if (!wanted(call, link, what.from, failures)) continue;
        if (what.length) rest.length = end - rest.offset;
        try {
            link.driver->fetch(call, rest, watched);
            if (end == 0 || rest.offset >= end) return;
            failures.add(call, link.name,
                         Error(ErrorClass::kUnavailable,
                               fmt::format("{}: it ended at byte {} of {}", doing, rest.offset, end)));
        } catch (const Error &error) {
            if (refused) std::rethrow_exception(refused);
            if (end != 0 && rest.offset >= end) return; // all the same, everything is there
            failures.add(call, link.name, error);
        }
    }
    // A range that nobody can give is asked for as part of a whole: the core must hear of that.
    failures.end(doing, range);
}

} // namespace

std::shared_ptr<RegistryDriver> make_registry_chain(std::vector<ChainLink> links) {
    if (links.size() == 1) return std::move(links[0].driver);
    return std::make_shared<RegistryChain>(std::move(links));
}

} // namespace gantry
