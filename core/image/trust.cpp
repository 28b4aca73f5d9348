// Rules, and the search for signatures that satisfy one. Whoever serves signatures can hide or invent them,
// never make one count: a key of the rule must verify the payload, and the payload must name this image.
#include "core/image/trust.h"

#include "core/base/files.h"
#include "core/config/tree.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>

namespace gantry {
namespace {

std::string place_of(const Origin &origin) {
    if (origin.source.empty() || origin.source == "default") return "";
    return origin.line ? fmt::format("{}:{}:{}", origin.source, origin.line, origin.column) : origin.source;
}

std::vector<PublicKey> read_keys(const TrustRule &rule) {
    std::vector<PublicKey> out;
    for (const TrustKey &key : rule.keys) {
        try {
            for (PublicKey &one : PublicKey::parse(read_file(key.file, kMaxKeyFileBytes), key.file))
                out.push_back(std::move(one));
        } catch (const Error &error) {
            throw config_error(key.origin, "key " + key.file + ": " + error.message(), error.hint());
        }
    }
    return out;
}

TrustPolicy::Rule make_rule(const TrustRule &what, std::string name) {
    TrustPolicy::Rule out{what, read_keys(what), std::move(name), place_of(what.origin)};
    std::set<std::string> different;
    for (const PublicKey &key : out.keys)
        different.insert(key.fingerprint());
    if (what.require == TrustRequire::kSignature && different.size() < what.threshold)
        throw config_error(what.origin, fmt::format("{} wants signatures by {} keys and has {}", out.name,
                                                    what.threshold, different.size()));
    return out;
}

/// Spellings of one registry that every client treats as the same.
std::string plain_host(std::string host) {
    std::transform(host.begin(), host.end(), host.begin(), [](unsigned char c) { return std::tolower(c); });
    if (host.ends_with(":443")) host.resize(host.size() - 4);
    return host == "index.docker.io" ? "docker.io" : host;
}

bool fits(const TrustRule &rule, const std::string &host, const std::string &repository) {
    if (rule.host.starts_with('.')) {
        const bool with_port = rule.host.find(':') != std::string::npos;
        if (!std::string_view(host).substr(0, with_port ? host.npos : host.find(':')).ends_with(rule.host))
            return false;
    } else if (!rule.host.empty() && plain_host(rule.host) != host) {
        return false;
    }
    if (rule.repository.empty()) return true;
    return rule.below ? repository.starts_with(rule.repository + "/") : repository == rule.repository;
}

bool same_name(const std::string &signed_for, const ImageReference &ref, TrustMatch match) {
    if (match == TrustMatch::kAny) return true;
    ImageReference name;
    try {
        name = parse_reference(signed_for, "docker.io", false);
    } catch (const Error &) {
        return false;
    }
    if (plain_host(name.registry) != plain_host(ref.registry) || name.repository != ref.repository)
        return false;
    if (match == TrustMatch::kRepository) return true;
    return (!ref.tag.empty() && name.tag == ref.tag) || (!ref.digest.empty() && name.digest == ref.digest);
}

/// Looks at one signature after the other until the rule is satisfied.
class Search {
  public:
    Search(const TrustPolicy::Rule &rule, const ImageReference &ref, const std::vector<std::string> &digests,
           SignatureStore &store, TrustReport &report)
        : rule_(rule), ref_(ref), digests_(digests), store_(store), report_(report) {}

    void run() {
        for (const std::string &digest : digests_) {
            by_tag(digest);
            if (!done()) by_referrers(digest);
            if (done()) return;
        }
    }
    bool satisfied() const { return signers_.size() >= rule_.what.threshold; }
    size_t signers() const { return signers_.size(); }
    const std::string &trouble() const { return trouble_; }

  private:
    bool done() const {
        return (rule_.what.require == TrustRequire::kSignature && satisfied()) ||
               report_.signatures.size() >= kMaxSignatures;
    }
    /// An error of one place does not keep others from being looked at.
    template <typename Work> void attempt(const Work &work) {
        try {
            work();
        } catch (const Error &error) {
            if (error.error_class() == ErrorClass::kCancelled) throw;
            trouble_ = error.message();
        }
    }
    static std::string tag_of(const std::string &digest) {
        std::string tag = digest;
        std::replace(tag.begin(), tag.end(), ':', '-');
        return tag;
    }
    static constexpr size_t kMaxTag = 128; // a sha512 digest fits into no tag

    void by_tag(const std::string &digest) {
        const std::string tag = tag_of(digest) + ".sig";
        if (tag.size() > kMaxTag) return;
        attempt([&] {
            if (const auto manifest = store_.tagged(tag)) look_into(*manifest, tag);
        });
    }
    void by_referrers(const std::string &digest) {
        std::optional<std::string> index;
        attempt([&] { index = store_.referrers(digest); });
        attempt([&] {
            const std::string tag = tag_of(digest);
            if (!index && tag.size() <= kMaxTag) index = store_.tagged(tag);
            if (!index) return;
            for (const BlobRef &blob : parse_signature_index(*index))
                if (!done())
                    attempt([&] { look_into(store_.blob(blob, true, kMaxManifestBytes), blob.digest); });
        });
    }
    void look_into(const std::string &manifest, const std::string &source) {
        for (const SignatureEntry &entry : parse_signature_manifest(manifest)) {
            if (done()) return;
            attempt([&] { look_at(entry, source); });
        }
    }
    void look_at(const SignatureEntry &entry, const std::string &source) {
        TrustSignature out{source, entry.payload.digest, "", "", "", entry.problem};
        if (out.problem.empty()) {
            const std::string &payload = payload_of(entry.payload);
            const PublicKey *key = nullptr;
            for (const PublicKey &one : rule_.keys)
                if (!key && one.verify(payload, entry.signature)) key = &one;
            if (key) {
                out.key = key->name();
                out.fingerprint = key->fingerprint();
                judge_payload(payload, out);
            } else {
                out.problem = rule_.keys.empty() ? "no key was given to verify it with"
                                                 : "it was made with none of the keys";
            }
        }
        if (out.problem.empty()) signers_.insert(out.fingerprint);
        report_.signatures.push_back(std::move(out));
    }
    void judge_payload(const std::string &bytes, TrustSignature &out) const {
        try {
            const SignaturePayload payload = parse_signature_payload(bytes);
            out.reference = payload.reference;
            if (std::find(digests_.begin(), digests_.end(), payload.digest) == digests_.end())
                out.problem = "it is for another image, " + payload.digest;
            else if (!same_name(payload.reference, ref_, rule_.what.match))
                out.problem = "it was made for \"" + payload.reference + "\"";
        } catch (const Error &error) {
            out.problem = error.message();
        }
    }
    const std::string &payload_of(const BlobRef &blob) {
        auto found = payloads_.find(blob.digest);
        if (found == payloads_.end())
            found = payloads_.emplace(blob.digest, store_.blob(blob, false, kMaxPayloadBytes)).first;
        return found->second;
    }

    const TrustPolicy::Rule &rule_;
    const ImageReference &ref_;
    const std::vector<std::string> &digests_;
    SignatureStore &store_;
    TrustReport &report_;
    std::map<std::string, std::string> payloads_;
    std::set<std::string> signers_; // fingerprints: a key that signed twice counts once
    std::string trouble_;
};

TrustReport begin(const TrustPolicy::Rule &rule, const ImageReference &ref) {
    TrustReport out;
    out.reference = ref.full();
    out.digest = ref.digest;
    out.rule = rule.name;
    out.place = rule.place;
    out.require = rule.what.require;
    out.keys = rule.key_names();
    out.threshold = rule.what.threshold;
    return out;
}

void explain_missing(const TrustPolicy::Rule &rule, const Search &search, TrustReport &out) {
    const TrustSignature *nearest = nullptr; // verified, but not for this name or image
    for (const TrustSignature &one : out.signatures)
        if (!nearest && !one.key.empty() && !one.problem.empty()) nearest = &one;
    if (search.signers() > 0) {
        out.problem =
            fmt::format("only {} of the {} keys it needs signed it", search.signers(), rule.what.threshold);
        out.hint = "let another holder of a key sign it, or lower the rule's threshold";
    } else if (nearest) {
        out.problem = "the signature by " + nearest->key + " does not count: " + nearest->problem;
        out.hint = "sign it under this name, or set match = \"any\" in the rule when one signature is to "
                   "serve for copies in other repositories";
    } else if (!search.trouble().empty()) {
        out.unreachable = true;
        out.problem = "its signatures could not be looked for: " + search.trouble();
        out.hint = "try again when the registry can be reached";
    } else if (out.signatures.empty()) {
        out.problem = "no signature of it was found";
        out.hint = "sign it (cosign sign --key KEY IMAGE@DIGEST), or give these names another rule";
    } else {
        out.problem =
            fmt::format("{} signature{} found, of which none can be used: {}", out.signatures.size(),
                        out.signatures.size() == 1 ? " was" : "s were", out.signatures.front().problem);
        out.hint = "when another key is to be trusted, add it to the rule's keys";
    }
}

} // namespace

const char *word_of(TrustRequire require) {
    switch (require) {
    case TrustRequire::kAccept: return "accept";
    case TrustRequire::kDigest: return "digest";
    case TrustRequire::kSignature: return "signature";
    case TrustRequire::kRefuse: return "refuse";
    }
    return "unknown";
}

std::vector<std::string> TrustPolicy::Rule::key_names() const {
    std::vector<std::string> out;
    for (const PublicKey &key : keys)
        if (out.empty() || out.back() != key.name()) out.push_back(key.name());
    return out;
}

TrustPolicy::TrustPolicy(const TrustConfig &config) : fallback_(make_rule(config.fallback, "trust.default")) {
    for (const TrustRule &rule : config.rules)
        rules_.push_back(make_rule(rule, "trust.rules.\"" + rule.pattern + "\""));
}

const TrustPolicy::Rule &TrustPolicy::rule_for(const ImageReference &ref) const {
    const std::string host = plain_host(ref.registry);
    for (const Rule &rule : rules_)
        if (fits(rule.what, host, ref.repository)) return rule;
    return fallback_;
}

TrustReport judge_name(const TrustPolicy::Rule &rule, const ImageReference &ref) {
    TrustReport out = begin(rule, ref);
    if (rule.what.require == TrustRequire::kRefuse) {
        out.problem = rule.what.reason.empty() ? "nothing of this name is let in" : rule.what.reason;
        out.hint = "gantry config show --origin tells where the rules were written";
    } else if (rule.what.require == TrustRequire::kDigest && ref.digest.empty()) {
        out.problem = "no digest was asked for";
        out.hint = "ask for " + ref.registry + "/" + ref.repository + "@sha256:...";
    } else {
        out.trusted = true;
    }
    return out;
}

TrustReport judge_trust(const TrustPolicy::Rule &rule, const ImageReference &ref,
                        const std::vector<std::string> &digests, SignatureStore *store) {
    TrustReport out = judge_name(rule, ref);
    if (!digests.empty()) out.digest = digests.front();
    const bool needed = rule.what.require == TrustRequire::kSignature;
    if (!store) {
        if (needed) {
            out.trusted = false;
            out.problem = "there is nowhere to look for its signature";
            out.hint = "give it a name with another rule, for instance below localhost/";
        }
        return out;
    }
    Search search(rule, ref, digests, *store, out);
    search.run();
    if (needed) {
        out.trusted = search.satisfied();
        if (!out.trusted) explain_missing(rule, search, out);
    }
    return out;
}

void require_trust(const TrustReport &report, const std::string &doing) {
    if (report.trusted) return;
    std::string rule = report.rule;
    if (!report.place.empty()) rule += " (" + report.place + ")";
    std::string wants = " refuses it";
    if (report.require == TrustRequire::kDigest) wants = " requires a pinned digest";
    if (report.require == TrustRequire::kSignature) {
        wants = report.threshold > 1 ? fmt::format(" requires signatures by {} of ", report.threshold)
                                     : std::string(" requires a signature by ");
        wants += fmt::format("{}", fmt::join(report.keys, " or "));
    }
    std::string what = report.reference;
    if (!report.digest.empty() && what.find(report.digest) == std::string::npos)
        what += " (" + report.digest + ")";
    throw Error(report.unreachable ? ErrorClass::kUnavailable : ErrorClass::kPermissionDenied,
                fmt::format("{} {}: not trusted: {}{}: {}", doing, what, rule, wants, report.problem),
                report.hint);
}

} // namespace gantry
