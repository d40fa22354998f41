#pragma once

#include "backend/cli/client.h"
#include "migration/workflow.h"

namespace everport::cli {

// The workflow's two hosts, by their daemons' API. address: what --api takes. client must outlive them.
class SourceHost : public migration::SourceApi {
 public:
  SourceHost(const Client& client, std::string address) : client_(client), address_(std::move(address)) {}
  std::string Address() const override { return address_; }
  absl::StatusOr<std::vector<migration::PortView>> Ports() override;
  absl::Status Remove(const std::string& name) override;
  absl::StatusOr<migration::Offer> OfferOf(const migration::PortView& port) override;

 private:
  const Client& client_;
  const std::string address_;
};

// quick: gives the daemon 2 s for an answer; outlives it as well.
class DestinationHost : public migration::DestinationApi {
 public:
  DestinationHost(const Client& client, const Client& quick, std::string address)
      : client_(client), quick_(quick), address_(std::move(address)) {}
  std::string Address() const override { return address_; }
  absl::StatusOr<std::vector<migration::PortView>> Ports() override;
  absl::Status Remove(const std::string& name) override;
  absl::Status Ready() override;
  absl::StatusOr<std::vector<migration::PortView>> PortsSoon() override;
  absl::StatusOr<migration::Compatibility> Check(const migration::Offer& offer) override;
  absl::StatusOr<std::string> Add(const migration::PortWish& wish) override;

 private:
  const Client& client_;
  const Client& quick_;
  const std::string address_;
};

}  // namespace everport::cli
