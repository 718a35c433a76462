#ifndef SPHERICAL_SERVER_VERSION_H_
#define SPHERICAL_SERVER_VERSION_H_

namespace spherical::server {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace spherical::server

#endif  // SPHERICAL_SERVER_VERSION_H_
