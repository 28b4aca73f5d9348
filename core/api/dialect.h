// The small habits of the Docker API that every route shares: booleans, filters, human durations,
// status sentences, progress bars, credentials in headers.
#pragma once

#include <gantry/registry.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gantry {
struct ContainerState;
}

namespace gantry::api {

/// As Docker's httputils: "", "0", "no", "false", "none" in any case are false, the rest is true.
bool parse_bool(std::string_view text);
/// Decimal integer; throws kInvalidArgument naming the parameter. "" gives `fallback`.
int64_t parse_integer(const std::string &text, int64_t fallback, const char *what);

/// {"label":{"a=b":true}}, {"label":["a=b"]} or "".
class Filters {
  public:
    Filters() = default;
    /// Throws kInvalidArgument "Invalid filter 'x'" for a key outside of `allowed`.
    Filters(const std::string &text, const std::vector<std::string> &allowed);
    bool has(const std::string &key) const { return values_.count(key) != 0; }
    const std::vector<std::string> &values(const std::string &key) const;
    /// True without that key, or when one value equals `value`.
    bool match(const std::string &key, const std::string &value) const;
    /// As match(), values being substrings or extended regular expressions.
    bool match_pattern(const std::string &key, const std::string &value) const;
    /// Every "key" or "key=value" of `filter` holds.
    bool match_labels(const std::string &filter, const std::map<std::string, std::string> &labels) const;
    /// -1 not given, 0 false, 1 true.
    int boolean(const std::string &key) const;

  private:
    std::map<std::string, std::vector<std::string>> values_;
};

/// "5 seconds", "About a minute", "2 weeks" (go-units HumanDuration).
std::string human_duration(int64_t ns);
/// "Up 5 seconds (healthy)", "Exited (0) 2 minutes ago", "Created".
std::string status_sentence(const ContainerState &state, int64_t now_ns);
/// "1.069MB": four significant digits, powers of 1000.
std::string human_size(double bytes);
/// "[=====>    ] 36.45kB/1.069MB"
std::string progress_bar(uint64_t current, uint64_t total);

/// base64 or base64url, padded or not; nullopt when it is neither.
std::optional<std::string> decode_base64(std::string_view text);
/// X-Registry-Auth; nullopt for none, {} or junk (dockerd pulls anonymously then, too).
std::optional<Credential> decode_credential(const std::string &header);
/// The client chose it by the registry of the name as it was written; when a short name leads to another
/// one, that must not see it, unless the credential says that it is for there.
std::optional<Credential> credential_for(const std::string &header, const std::string &registry_written,
                                         const std::string &registry_meant);

} // namespace gantry::api
