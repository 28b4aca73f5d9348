#include "core/check/checker.h"

namespace gantry {

CheckSummary check_system(const CheckParts &parts, const CheckOptions &options, const FindingSink &sink,
                          const Call &call) {
    check::Checker c{parts, options, sink, call, {}};
    check::check_content(c); // first: damaged blobs restore no layer
    check::check_layers(c);
    if (parts.containers) {
        check::check_containers(c);
        check::check_kernel(c);
    }
    return c.sum;
}

} // namespace gantry
