mod chain;
mod crash;
mod file;
mod volatile;
