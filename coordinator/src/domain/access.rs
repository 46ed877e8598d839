//! Who may call what. One table; a method that is not in it is refused.

use super::word::words;

words! {
    /// What somebody may do.
    Role, "role" {
        /// Everything but the calls of workers.
        Admin = "admin",
        /// Submits jobs, sees and steers its owner's.
        Submit = "submit",
        /// Sees its owner's jobs, or all when it has no owner, and changes nothing.
        Read = "read",
        /// Renders.
        Worker = "worker",
    }
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, with no token.
    Open,
    /// These.
    Roles(&'static [Role]),
}

const PEOPLE: Access = Access::Roles(&[Role::Admin, Role::Submit, Role::Read]);
const OWNERS: Access = Access::Roles(&[Role::Admin, Role::Submit]);
const ADMINS: Access = Access::Roles(&[Role::Admin]);
const READERS: Access = Access::Roles(&[Role::Admin, Role::Read]);
const WORKERS: Access = Access::Roles(&[Role::Worker]);

/// The table: paths of methods, and who may call them. What an owner sees is decided by each call.
pub const ACCESS: &[(&str, Access)] = &[
    ("/grpc.health.v1.Health/Check", Access::Open),
    ("/grpc.health.v1.Health/List", Access::Open),
    ("/grpc.health.v1.Health/Watch", Access::Open),
    // Over HTTP. Probes have no token.
    ("/healthz", Access::Open),
    ("/readyz", Access::Open),
    ("/metrics", READERS),
    ("/sanafarm.v1.JobService/SubmitJob", OWNERS),
    ("/sanafarm.v1.JobService/GetJob", PEOPLE),
    ("/sanafarm.v1.JobService/ListJobs", PEOPLE),
    ("/sanafarm.v1.JobService/WatchJob", PEOPLE),
    ("/sanafarm.v1.JobService/ListImages", PEOPLE),
    ("/sanafarm.v1.JobService/ListObjects", PEOPLE),
    ("/sanafarm.v1.JobService/ExportJob", PEOPLE),
    ("/sanafarm.v1.JobService/ExplainJob", PEOPLE),
    ("/sanafarm.v1.JobService/ChangeJob", OWNERS),
    ("/sanafarm.v1.JobService/ListWorkers", PEOPLE),
    ("/sanafarm.v1.JobService/DrainWorker", ADMINS),
    ("/sanafarm.v1.JobService/ChangeOwner", ADMINS),
    ("/sanafarm.v1.JobService/Estimate", PEOPLE),
    // Those of one owner are refused by the call: SQL sees everybody's rows.
    ("/sanafarm.v1.HistoryService/Query", READERS),
    ("/sanafarm.v1.HistoryService/Story", PEOPLE),
    ("/sanafarm.v1.HistoryService/GetLogs", PEOPLE),
    ("/sanafarm.v1.TokenService/CreateToken", ADMINS),
    ("/sanafarm.v1.TokenService/ListTokens", ADMINS),
    ("/sanafarm.v1.TokenService/RevokeToken", ADMINS),
    ("/sanafarm.v1.TokenService/RotateToken", ADMINS),
    ("/externalscaler.ExternalScaler/IsActive", READERS),
    ("/externalscaler.ExternalScaler/StreamIsActive", READERS),
    ("/externalscaler.ExternalScaler/GetMetricSpec", READERS),
    ("/externalscaler.ExternalScaler/StreamMetricSpec", READERS),
    ("/externalscaler.ExternalScaler/GetMetrics", READERS),
    ("/sanafarm.v1.WorkerService/OpenSession", WORKERS),
    ("/sanafarm.v1.WorkerService/LeaseShard", WORKERS),
    ("/sanafarm.v1.WorkerService/RenewLeases", WORKERS),
    ("/sanafarm.v1.WorkerService/ReportResults", WORKERS),
    ("/sanafarm.v1.WorkerService/ReleaseLease", WORKERS),
    ("/sanafarm.v1.WorkerService/SignObjects", WORKERS),
    ("/sanafarm.v1.WorkerService/Follow", WORKERS),
    ("/sanafarm.v1.WorkerService/CloseSession", WORKERS),
];

/// Who may call the method of this path; none when nobody may.
pub fn access(path: &str) -> Option<Access> {
    ACCESS.iter().find(|(known, _)| *known == path).map(|(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_our_services_is_in_the_table_once_and_no_other() {
        let files: FileDescriptorSet = prost::Message::decode(sanafarm_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let ours = |path: &&str| path.contains('.') && !path.starts_with("/grpc.health.v1.");
        let table: Vec<&str> = ACCESS.iter().map(|(path, _)| *path).collect();
        let once: BTreeSet<String> =
            table.iter().filter(|path| ours(path)).map(|path| (*path).to_owned()).collect();
        assert_eq!(once, methods);
        assert_eq!(table.iter().collect::<BTreeSet<_>>().len(), table.len());
    }

    #[test]
    fn what_is_not_in_the_table_is_nobodys() {
        assert_eq!(access("/sanafarm.v1.JobService/DropEverything"), None);
        assert_eq!(access("/sanafarm.v1.JobService/GetJob/"), None);
        assert_eq!(access(""), None);
        assert_eq!(access("/sanafarm.v1.JobService/GetJob"), Some(PEOPLE));
    }

    #[test]
    fn only_workers_work_and_only_admins_rule() {
        for (path, access) in ACCESS {
            let Access::Roles(roles) = access else { continue };
            assert_eq!(path.contains("WorkerService"), roles.contains(&Role::Worker), "{path}");
            assert_eq!(!path.contains("WorkerService"), roles.contains(&Role::Admin), "{path}");
            if path.contains("TokenService") {
                assert_eq!(roles, &[Role::Admin], "{path}");
            }
        }
    }
}
