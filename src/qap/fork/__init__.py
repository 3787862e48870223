"""The base, the patch queue, the trees and their builds."""
